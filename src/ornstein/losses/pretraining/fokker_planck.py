"""Fokker-Planck regularisation: a pretraining loss plus the squared residual of the score's own evolution equation.

Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation, Teo Deveney, Jan Stanczuk,
Lisa Kreusser, Chris Budd, Carola-Bibiane Schoenlieb, 2023, arXiv:2311.15996; in the form for vector fields of
FP-Diffusion, Chieh-Hsin Lai et al., 2022, arXiv:2210.04296. In y = x/a = x_0 + sigma noise, n the predicted noise:

    loss = base + w mean R^2,   R = n - dn/dlog sigma + sigma^2 grad div n - sigma grad |n|^2     (0 for an exact score)

taken at the noised batch itself, the samples and times of the base loss. The divergence is exact up to `exact` dimensions
and by pairs of Rademacher probes above, whose product R_1 R_2 has no bias. Cost: about 3 D or 3 `probes` passes of the
network more, differentiated twice forward and twice backward: its activations have to be smooth (SiLU, not ReLU).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import gather

__all__ = ["FokkerPlanckLoss"]


@dataclass(frozen=True)
class FokkerPlanckLoss:
    """Called as loss(denoiser, batch, generator, step) -> {'loss', the base's entries, 'fokker-planck' (weighted)}."""

    weight: float = 1.0  # w; the publication tries 0, 0.1, 1 and 10
    base: Any = "denoising"  # a loss of this room with a law of times: by name with settings, or itself
    sigma_min: float = 0.05  # noise-to-signal ratios outside are moved to the bounds: R is for smooth scores
    sigma_max: float = 10.0
    exact: int = 64  # dimensions up to which the divergence is exact
    probes: int = 2  # Rademacher vectors above
    share: float = 1.0  # of the batch's rows that R is taken at

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not 0 < self.sigma_min < self.sigma_max or self.probes < 2 or not 0 < self.share <= 1:
            given = f"weight={self.weight}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, probes={self.probes}"
            raise OrnsteinError(f"{given}, share={self.share}", "Give a weight of 0 or more, rising bounds above 0, 2 "
                                "probes or more, and a share above 0.")  # fmt: skip

    def __call__(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None = None,
                 step: int = 0) -> dict[str, Tensor]:  # fmt: skip
        """batch: as for the base loss; 'u' [B] (or 't') and 'noise' are drawn from the generator where not there."""
        base, x0 = catalog.build("losses", self.base), batch["x0"]
        batch = dict(batch)
        if "noise" not in batch:
            batch["noise"] = torch.randn(x0.shape, generator=generator).to(x0)
        if "t" not in batch:
            u = batch["u"] if "u" in batch else torch.rand(len(x0), generator=generator).to(x0.device)
            batch["t"] = base.times(u, denoiser.process)
        losses = dict(base(denoiser, batch, generator, step))
        total = losses.pop("loss")
        if self.weight:
            losses["fokker-planck"] = self.weight * self._squares(denoiser, batch, generator).mean()
            total = total + losses["fokker-planck"]
        return {"loss": total, **losses}

    def _squares(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None) -> Tensor:
        """R^2 [B], mean over each sample's elements."""
        x0, t, cond = batch["x0"], batch["t"], batch.get("cond")
        count = max(1, round(self.share * len(x0)))
        cond = gather(cond, torch.arange(count), len(x0))
        x0, noise, t = x0[:count], batch["noise"][:count], t[:count]
        half = denoiser.process.at(t, x0).logsnr.flatten() / -2
        level = half.clamp(torch.tensor(self.sigma_min).log().item(), torch.tensor(self.sigma_max).log().item()).to(x0)
        y = x0 + _wide(level.exp(), x0) * noise
        if x0[0].numel() <= self.exact:
            r = _residual(denoiser, y, level, cond)
            return r.square().flatten(1).mean(1)
        drawn = torch.rand(self.probes, *x0.shape, generator=generator).to(x0).sub(0.5).sign()
        each = torch.stack([_residual(denoiser, y, level, cond, v) for v in drawn]).flatten(2)
        pairs = each.sum(0).square() - each.square().sum(0)
        return pairs.mean(1) / (self.probes * (self.probes - 1))


def _wide(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.ndim - 1))


def _residual(denoiser: Denoiser, y: Tensor, level: Tensor, cond: Any, probe: Tensor | None = None) -> Tensor:
    """R at y [B, ...] and log sigma [B], in the graph of the network's parameters."""
    process, batch = denoiser.process, len(y)
    count = 1 if probe is not None else y[0].numel()
    rows = torch.arange(batch, device=y.device).repeat_interleave(count)
    many = gather(cond, rows, batch)
    v = probe if probe is not None else torch.eye(count, dtype=y.dtype, device=y.device).repeat(batch, 1).view(-1, *y.shape[1:])

    def noise(y: Tensor, level: Tensor, cond: Any) -> Tensor:
        t = process.time(-2 * level)
        return denoiser(process.at(t, y).a * y, t, cond).noise

    def potential(y: Tensor) -> Tensor:  # sigma^2 div n - sigma |n|^2, summed over the batch
        big, levels = y.repeat_interleave(count, 0), level.repeat_interleave(count)
        said, pushed = torch.func.jvp(lambda z: noise(z, levels, many), (big,), (v,))
        div = (v * pushed).flatten(1).sum(1).view(batch, count).sum(1)
        return (level.exp() * (level.exp() * div - said[::count].square().flatten(1).sum(1))).sum()

    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.func.grad(potential)(y)
        said, slope = torch.func.jvp(lambda level: noise(y, level, cond), (level,), (torch.ones_like(level),))
    r = said - slope + gradient
    return r.float() if r.dtype != torch.float64 else r
