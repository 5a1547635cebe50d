"""Two laws compared by their samples, and the exact classifier of a mixture: for evidence on the exact testbeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ornstein.testbeds import Mixture

__all__ = ["bayes", "blurred", "classes", "energy"]


def energy(x: Tensor, y: Tensor) -> float:
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| of samples [N, D] and [M, D], unbiased; 0 for one law."""
    x, y = x.double(), y.double()
    same = [torch.cdist(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - same[0] - same[1])


def bayes(mixture: Mixture, x: Tensor, labels: Sequence[int]) -> Tensor:
    """log p(label | x) at equal priors, [N, len(labels)]."""
    x = x.double()
    density = [mixture.log_density(x, 0.0, {"label": torch.full((len(x),), k)}) for k in labels]
    return torch.stack(density, 1).log_softmax(1)


def classes(process: object, seed: int, dims: int = 8, labels: int = 4, parts: int = 3, std: float = 0.45) -> Mixture:
    """Labels of several Gaussians each, whose laws overlap."""
    base = Mixture.random(process, dims, labels * parts, std, seed)
    return Mixture(base.means, base.stds, process, base.weights, torch.arange(labels * parts) % labels)


def blurred(mixture: Mixture, factor: float) -> Mixture:
    """The same with every standard deviation times `factor`: a model that covers too much, as an under-trained one
    does."""
    return Mixture(mixture.means, mixture.stds * factor, mixture.process, mixture.weights, mixture.labels)
