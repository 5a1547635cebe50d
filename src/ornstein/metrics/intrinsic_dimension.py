"""Intrinsic dimension of the data, read off the Jacobian of a denoiser or of its probability flow.

On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion models, Christian Horvat, Jean-Pascal
Pfister, 2024, arXiv:2402.03845. In y = x_0 + sigma noise, at a noise small against the data's curvature and large against
the data's spacing, the denoised sample is the projection on the data's manifold:

    'denoiser':  singular values of J = d x0/d y are near 1 along the manifold and near 0 across: those above 1/2 count
    'flow':      Y' = J_flow Y from sigma_from down to sigma; those above sqrt(sigma / sigma_from) count, since across
                 the manifold they are sigma / sigma_from and along it they stay

The flow's map is that of its DDIM steps, even in log sigma, differentiated exactly. Cost: D rows for each sample,
once or `steps` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown

from .layers.jacobian import answers, check_data, full, noised
from .layers.measure import Measure, bootstrap

__all__ = ["IntrinsicDimension"]


@dataclass(frozen=True)
class IntrinsicDimension:
    """Mean over samples of the number of large singular values. A figure of the data: neither end is better."""

    of: ClassVar[str] = "denoiser"
    sigma: float = 0.1  # noise-to-signal ratio s/a, in units of the data
    way: str = "denoiser"  # or 'flow'
    sigma_from: float = 1.0  # where the flow's map begins
    steps: int = 12  # of the flow
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of noise and bootstrap

    def __post_init__(self) -> None:
        if self.way not in ("denoiser", "flow"):
            raise unknown("way to the dimension", self.way, ("denoiser", "flow"))
        if not 0 < self.sigma < self.sigma_from or self.steps < 1:
            raise OrnsteinError(f"sigma={self.sigma}, sigma_from={self.sigma_from}, steps={self.steps}",
                                "Give 0 < sigma < sigma_from and at least 1 step.")  # fmt: skip

    def __call__(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Measure:
        """x: data [N, ...]; cond: N rows; ids: what the noise is keyed by."""
        each = self.per_sample(denoiser, x, cond, ids)
        low, high = bootstrap(each, self.rounds, self.seed)
        return Measure(each.mean().item(), low, high, len(x), "intrinsic-dimension", "dimensions", "lower")

    def per_sample(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """The dimension at each sample [N], whole numbers in float64."""
        least = 0.5 if self.way == "denoiser" else (self.sigma / self.sigma_from) ** 0.5
        return (self.spectrum(denoiser, x, cond, ids) > least).double().sum(1)

    def spectrum(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """Singular values at each sample [N, D], falling, float64: look at them, the count needs a gap."""
        top = self.sigma if self.way == "denoiser" else self.sigma_from
        ids = check_data(x, (self.sigma,), ids)
        y, f = noised(x, top, self.seed, ids, 0), answers(denoiser, x, cond, "x0")

        def at(y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            level = y.new_full((len(y),), sigma).log()
            x0, jacobian = full(lambda y, rows: f(y, level[rows], rows), y)
            return x0.detach(), jacobian.detach().double()

        if self.way == "denoiser":
            return torch.linalg.svdvals(at(y, self.sigma)[1])
        total = torch.eye(x[0].numel(), dtype=torch.float64, device=x.device)
        ratio = (self.sigma / self.sigma_from) ** (1 / self.steps)
        for k in range(self.steps):  # y' = x0 + ratio (y - x0)
            x0, jacobian = at(y, self.sigma_from * ratio**k)
            y, total = x0 + ratio * (y - x0), ratio * total + (1 - ratio) * jacobian @ total
        return torch.linalg.svdvals(total.expand(len(x), -1, -1))
