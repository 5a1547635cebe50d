"""Flow times at the quantiles of a Beta distribution: small steps at both ends of the way, large ones in the middle.

Beta Sampling is All You Need: Efficient Image Generation Strategy for Diffusion Models using Stepwise Spectral Analysis,
Lee, Lee, Gye, Kim, 2024, arXiv:2407.12173: t_i = T Q(1 - i/n), Q the inverse of the distribution function of Beta(alpha,
beta); here of tau = s/(a+s) in the place of t, so that every process gets the same levels. Costs one remembered table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process

from .layers.flowtime import times

__all__ = ["Beta"]

CELLS = 4000  # of the table, per half


@dataclass(frozen=True)
class Beta:
    """Equal exponents below 1 are the paper's; 1 and 1 is uniform; the smaller of two draws steps to its end."""

    alpha: float = 0.6  # below 1: small steps at the data
    beta: float = 0.6  # below 1: small steps at the noise

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            what = f"alpha={self.alpha} and beta={self.beta} of the beta grid are not both above 0"
            raise OrnsteinError(what, "Give two positive numbers, such as 0.6 and 0.6.")

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return times(process, _quantile(even, self.alpha, self.beta))


def _half(p: float, q: float) -> tuple[Tensor, Tensor]:
    """x in [0, 1/2] and the integral of x^(p-1) (1-x)^(q-1) up to it, by v = x^p, in which the end is smooth."""
    v = torch.linspace(0, 0.5**p, 2 * CELLS + 1, dtype=torch.float64)
    y = (1 - v ** (1 / p)) ** (q - 1) / p
    simpson = (y[:-2:2] + 4 * y[1:-1:2] + y[2::2]) * (v[2] - v[0]) / 6
    return v[::2] ** (1 / p), torch.cat([v[:1], simpson.cumsum(0)])


@lru_cache(maxsize=32)
def _table(alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Points x of [0, 1] and the distribution function there."""
    x, low = _half(alpha, beta)
    z, high = _half(beta, alpha)
    total = low[-1] + high[-1]
    return torch.cat([x, (1 - z).flip(0)[1:]]), torch.cat([low, (total - high).flip(0)[1:]]) / total


def _quantile(share: Tensor, alpha: float, beta: float) -> Tensor:
    """The x below which lies that share of Beta(alpha, beta), [n] in [0, 1]; 0 and 1 exactly."""
    x, below = _table(alpha, beta)
    k = torch.searchsorted(below, share).clamp(1, len(x) - 1)
    weight = ((share - below[k - 1]) / (below[k] - below[k - 1])).clamp(0, 1)
    found = torch.lerp(x[k - 1], x[k], weight)
    return torch.where(share >= 1, 1.0, torch.where(share <= 0, 0.0, found))
