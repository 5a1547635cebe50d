"""Laws that are known exactly, and samples of them: what the distances between laws are tried on."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

__all__ = ["draw", "gaussian", "moments", "ring", "twin"]


def gaussian(mean: list[float], stds: list[float]) -> Mixture:
    """N(mean, diag stds^2)."""
    return Mixture(torch.tensor([mean]), torch.tensor([stds]), Flow())


def ring() -> Mixture:
    """Eight blobs on a circle: mean 0, covariance a multiple of 1, and far from any Gaussian."""
    return Mixture.ring(Flow(), 8, 1.0, 0.15)


def twin(mixture: Mixture) -> Mixture:
    """The Gaussian with the mixture's mean and variances, axis by axis."""
    mean, var = moments(mixture)
    return Mixture(mean[None], var.sqrt()[None], mixture.process)


def moments(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mean [D] and variances [D]."""
    mean = mixture.weights @ mixture.means
    return mean, mixture.weights @ (mixture.stds**2 + mixture.means**2) - mean**2


def draw(law: Mixture, n: int, seed: int) -> Tensor:
    """n samples [n, D], float64."""
    return law.sample(n, seed)
