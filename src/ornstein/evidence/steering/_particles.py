"""The common ground of particle evidence: laws tilted by a linear reward, exactly; digits, a reward and another judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.loop import Controller, sample
from ornstein.data.digits import Digits
from ornstein.evidence import Row
from ornstein.metrics.layers.digits import predict
from ornstein.model import load
from ornstein.testbeds import Mixture, Tokens

__all__ = ["WAY", "batched", "bed", "classes_of", "counted", "digits", "judged", "linear", "spread", "tilted", "tokens", "wished"]

WAY = torch.tensor([0.8, 0.6], dtype=torch.float64)  # the direction of the linear reward, of length 1
CHUNK = 30  # samples at a time


def linear(x: Tensor, cond: object = None) -> Tensor:
    """The reward of two-dimensional data."""
    return x.double() @ WAY


def bed(seed: int) -> Mixture:
    """Eight Gaussians in the plane."""
    return Mixture.random(catalog.build("processes", "flow"), 2, 8, 0.3, seed)


def tilted(mixture: Mixture, scale: float) -> Mixture:
    """p(x) exp(scale WAY x): every component moves by scale * variance * WAY and is weighed anew."""
    var = mixture.stds**2
    logs = mixture.weights.log() + scale * (mixture.means @ WAY) + scale**2 / 2 * (var * WAY**2).sum(1)
    return Mixture(mixture.means + scale * var * WAY, mixture.stds, mixture.process, logs.softmax(0))


def tokens() -> Tokens:
    """Six words of five letters out of three, of uneven weights."""
    words = [[0, 0, 1, 2, 1], [1, 0, 1, 2, 0], [2, 2, 2, 0, 1], [2, 1, 0, 0, 0], [1, 1, 1, 1, 2], [0, 2, 0, 2, 2]]
    weights = torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    return Tokens(torch.tensor(words), catalog.build("processes", "masked:tokens=3"), weights)


def counted(x: Tensor, cond: object = None) -> Tensor:
    """How many letters are 0: a reward without a gradient."""
    return (x == 0).double().sum(1)


def batched(denoiser: Any, shape: tuple, count: int, solver: str, steps: int, part: Controller | None, seed: int,
            cond: Callable[[int], Any] = lambda n: None) -> tuple[Tensor, float]:  # fmt: skip
    """`count` samples of a shape, some at a time, and seconds of processor time."""
    began, out = time.process_time(), []
    start = torch.full if getattr(denoiser.process, "discrete", False) else None
    for k in range(0, count, CHUNK):
        n = min(CHUNK, count - k)
        given = start((n, *shape), denoiser.process.mask) if start else (n, *shape)
        out.append(sample(denoiser, given, catalog.build("solvers", solver), steps, cond=cond(n), seed=seed,
                          ids=range(k, k + n), controllers=[part] if part else []))  # fmt: skip
    return torch.cat(out), time.process_time() - began


@cache
def _linear_classes() -> tuple[Tensor, Tensor, Tensor]:
    """Linear discriminant analysis of the training digits: weights [64, 10], offsets [10]; and the images by class."""
    data = Digits("train")
    x, y = data.images().flatten(1).double(), data.labels
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    gap = x - means[y]
    weights = torch.linalg.solve(gap.T @ gap / len(x) + 0.05 * torch.eye(64, dtype=torch.float64), means.T)
    return weights, -0.5 * (means * weights.T).sum(1), x


def wished(label: int) -> Callable[[Tensor, Any], Tensor]:
    """The reward of digits: the log chance in nats of a class by linear discriminant analysis of the training digits."""
    def reward(x: Tensor, cond: object = None) -> Tensor:
        weights, offset, _ = _linear_classes()
        return (x.flatten(1).double() @ weights + offset).log_softmax(1)[:, label]

    return reward


def digits(part: Controller | None, count: int, steps: int, seed: int) -> tuple[Tensor, float]:
    """Digits of no class from the shipped U-Net, ancestral sampling; and seconds."""
    model = load("digits-unet")
    none = lambda n: {"label": torch.full((n,), 10)}  # noqa: E731
    return batched(model.denoiser, model.shape, count, "ddim:eta=1", steps, part, seed, none)


def classes_of(x: Tensor, label: int) -> float:
    """Share that the shipped convolutional classifier, which no reward has seen, takes for the class."""
    return float((predict(x) == label).double().mean())


def spread(x: Tensor, label: int) -> float:
    """Mean distance between the samples of the class over that between as many real test digits of it; 1: as varied."""
    test = Digits("test")
    own, real = x[predict(x) == label].flatten(1), test.images()[test.labels == label].flatten(1)
    if len(own) < 2:
        return 0.0
    far = [torch.pdist(v).mean() for v in (own, real)]
    return float(far[0] / far[1])


def judged(name: str, kind: str, drawn: Sequence[Tensor], label: int, cost: str) -> list[Row]:
    """The rows of digits drawn with one seed each, by judges that are not the reward."""
    hit, varied = ([judge(x, label) for x in drawn] for judge in (classes_of, spread))
    return [Row(name, kind, "digits of the wished class, by the other judge (higher)", hit, cost),
            Row(name, kind, "distance between these, of real ones' (1)", varied)]  # fmt: skip
