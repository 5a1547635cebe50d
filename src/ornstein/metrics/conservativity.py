"""Conservativity: how far a denoiser's field is from a gradient, and whether the rest is a gauge, which changes no density.

On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion models, Christian Horvat, Jean-Pascal
Pfister, 2024, arXiv:2402.03845. With J the Jacobian of the denoised sample, symmetric for an exact denoiser:

    curl = |J - J^T|_F / |J|_F,  from 0 to 2;     E_v |J v - J^T v|^2 and E_v |J v|^2 where probes stand for the norms

A field s = grad log p + r has the densities of grad log p whatever r is, as long as div r + <r, grad log p> = 0:
`gauge_residual` is the left side, where the exact score is known. So a curl of 0 is neither necessary nor sufficient for
right samples; what needs it are uses of J itself. Cost: D forward derivatives up to `exact` dimensions, above one forward
and one backward derivative for each probe, at each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError

from .layers.jacobian import answers, check_data, divergence, full, noised, probes, pull, push
from .layers.measure import Measure, bootstrap

__all__ = ["Conservativity", "gauge_residual"]


@dataclass(frozen=True)
class Conservativity:
    """The curl of the denoised sample, mean over samples and levels. 0: a gradient; sqrt(2): J has no symmetry."""

    of: ClassVar[str] = "denoiser"
    sigmas: Sequence[float] = (0.2, 0.5, 1.0, 2.0)  # noise-to-signal ratios s/a at which it is taken
    exact: int = 32  # dimensions up to which the norms are exact
    probes: int = 8  # Rademacher vectors above
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of noise, probes and bootstrap

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise OrnsteinError(f"conservativity has probes={self.probes}", "Give at least 1.")

    def __call__(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Measure:
        """x: data [N, ...]; cond: N rows; ids: what the noise is keyed by. Lower is nearer to a gradient."""
        each = self.per_sample(denoiser, x, cond, ids)
        low, high = bootstrap(each, self.rounds, self.seed)
        return Measure(each.mean().item(), low, high, len(x), "conservativity", "", "lower")

    def per_sample(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """|J - J^T| / |J| of every sample [N], float64, mean over levels."""
        ids, rows = check_data(x, self.sigmas, ids), torch.arange(len(x), device=x.device)
        f, total = answers(denoiser, x, cond, "x0"), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for k, sigma in enumerate(self.sigmas):
            y, level = noised(x, sigma, self.seed, ids, k), x.new_full((len(x),), sigma).log()
            if x[0].numel() <= self.exact:
                J = full(lambda y, rows, level=level: f(y, level[rows], rows), y)[1].detach().double()
                odd, whole = (J - J.transpose(1, 2)).square().sum((1, 2)), J.square().sum((1, 2))
            else:
                odd = whole = 0.0
                for v in probes(x, self.probes, self.seed, ids, k):
                    def g(y: Tensor, level: Tensor = level) -> Tensor:
                        return f(y, level, rows)

                    ahead, back = push(g, y, v)[1].detach().double(), pull(g, y, v).detach().double()
                    odd = odd + (ahead - back).square().flatten(1).sum(1)
                    whole = whole + ahead.square().flatten(1).sum(1)
            total += (odd / whole).sqrt()
        return total / len(self.sigmas)


def gauge_residual(denoiser: Denoises, truth: Denoises, y: Tensor, sigma: float, cond: Any = None,
                   vectors: Tensor | None = None) -> Tensor:  # fmt: skip
    """sigma (div r + <r, score>) / rms|r| at y = x_0 + sigma noise [B, ...], [B]: 0 where r is a gauge at y.

    r: the denoiser's score less that of `truth`, an exact denoiser; rms over the batch. vectors: probes [K, B, ...] for
    the divergence, None for the exact one. For the gauge condition as a whole y has to be drawn from the noised data.
    """
    level = y.new_full((len(y),), sigma).log()
    one, other = (answers(d, y, cond, "noise") for d in (denoiser, truth))
    r, div = divergence(lambda y, rows: (other(y, level[rows], rows) - one(y, level[rows], rows)) / sigma, y, vectors)
    score = -other(y, level, torch.arange(len(y), device=y.device)) / sigma
    left = div + (r * score).flatten(1).sum(1)
    return (sigma * left / r.square().flatten(1).sum(1).mean().sqrt().clamp_min(1e-30)).detach()
