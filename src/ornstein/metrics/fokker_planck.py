"""Fokker-Planck residual: how far a denoiser's scores at neighbouring noise levels are from those of one diffusion.

Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation, Teo Deveney, Jan Stanczuk,
Lisa Kreusser, Chris Budd, Carola-Bibiane Schoenlieb, 2023, arXiv:2311.15996; for a vector field, the score's own
equation: FP-Diffusion, Chieh-Hsin Lai et al., 2022, arXiv:2210.04296. In y = x/a = x_0 + sigma noise every Gaussian
process is d p/d sigma = sigma lap p, and its score u(y, sigma) = -noise/sigma fulfils

    d u / d sigma = sigma grad( div u + |u|^2 );   here  R = sigma^2 (left - right), in units of the noise per e-fold

so that R does not depend on how the process names its times, and is 0 for an exact denoiser. Where it is not, ODE and SDE
samplers draw from different laws. The divergence is exact up to `exact` dimensions (D rows for one), above by Rademacher
probes, whose independent pairs keep the mean of |R|^2 free of bias. Cost: a forward and a backward pass over D or
`probes` forward derivatives, for each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError

from .layers.jacobian import answers, check_data, divergence, noised, probes
from .layers.measure import Measure, bootstrap

__all__ = ["FokkerPlanck"]


@dataclass(frozen=True)
class FokkerPlanck:
    """Root mean square of R, over elements, levels and samples. 0 is exact; the noise itself has 1."""

    of: ClassVar[str] = "denoiser"
    sigmas: Sequence[float] = (0.2, 0.5, 1.0, 2.0)  # noise-to-signal ratios s/a at which it is taken
    exact: int = 32  # dimensions up to which the divergence is exact
    probes: int = 2  # Rademacher vectors above
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of noise, probes and bootstrap

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise OrnsteinError(f"fokker_planck has probes={self.probes}", "Give at least 2: pairs of them are wanted.")

    def __call__(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Measure:
        """x: data [N, ...]; cond: N rows; ids: what the noise is keyed by. Lower is better."""
        squares = self.per_sample(denoiser, x, cond, ids)
        low, high = (max(v, 0.0) ** 0.5 for v in bootstrap(squares, self.rounds, self.seed))
        value = squares.mean().clamp_min(0).sqrt().item()
        return Measure(value, min(low, value), max(high, value), len(x), "fokker-planck", "noise per e-fold", "lower")

    def per_sample(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """Estimate of the mean of R^2 [N], over elements and levels; with probes single values may be negative."""
        ids = check_data(x, self.sigmas, ids)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for k, sigma in enumerate(self.sigmas):
            y = noised(x, sigma, self.seed, ids, k)
            if x[0].numel() <= self.exact:
                r = residual(denoiser, y, sigma, cond).flatten(1).double()
                total += r.square().mean(1)
                continue
            vectors = probes(x, self.probes, self.seed, ids, k)
            each = torch.stack([residual(denoiser, y, sigma, cond, v[None]) for v in vectors]).flatten(2).double()
            pairs = each.sum(0).square() - each.square().sum(0)  # sum of R_i R_j over i != j
            total += pairs.mean(1) / (self.probes * (self.probes - 1))
        return total / len(self.sigmas)


def residual(denoiser: Denoises, y: Tensor, sigma: float, cond: Any = None, vectors: Tensor | None = None) -> Tensor:
    """R at y [B, ...], like y. With n the noise: n - dn/dlog sigma + sigma^2 grad div n - sigma grad |n|^2.

    vectors: probes [K, B, ...] for the divergence, or None for the exact one.
    """
    f = answers(denoiser, y, cond, "noise")
    rows = torch.arange(len(y), device=y.device)
    level = torch.full((len(y),), sigma, dtype=y.dtype, device=y.device).log()

    def potential(y: Tensor) -> Tensor:
        noise, div = divergence(lambda y, rows: f(y, level[rows], rows), y, vectors)
        return (sigma * div - noise.square().flatten(1).sum(1)).sum()

    gradient = torch.func.grad(potential)(y)
    noise, slope = torch.func.jvp(lambda level: f(y, level, rows), (level,), (torch.ones_like(level),))
    return (noise - slope + sigma * gradient).detach()
