"""The common ground of rules that put scores together: runs counted by calls, on exact mixtures and on the digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.loop import Controller, sample
from ornstein.evidence import Row
from ornstein.solvers.ddim import DDIM

__all__ = ["Counted", "before", "drawn", "quality", "row"]


@dataclass(frozen=True, eq=False)
class Counted:
    """A denoiser that counts how often it is asked."""

    denoiser: Denoises
    calls: list

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None) -> Any:
        self.calls.append(1)
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond: Any, batch: int) -> Any:
        return self.denoiser.unconditional(cond, batch)


def drawn(denoiser: Denoises, shape: tuple[int, ...], steps: int, cond: Any, seed: int, eta: float = 0.0,
          controllers: Sequence[Controller] = ()) -> Tensor:  # fmt: skip
    """Samples by DDIM on the uniform grid of the process, float64."""
    return sample(denoiser, shape, DDIM(eta), steps, cond=cond, seed=seed, controllers=controllers).double()


def row(name: str, kind: str, metric: str, values: Sequence[float], calls: int) -> Row:
    return Row(name, kind, metric, list(values), f"{calls} NFE")


def before(mine: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `mine` is lower by more than two standard errors of the difference, seed by seed."""
    gap = torch.tensor(other, dtype=torch.float64) - torch.tensor(mine, dtype=torch.float64)
    return bool(gap.mean() > 2 * gap.std() / len(gap) ** 0.5)


def quality(x: Tensor, label: Tensor) -> tuple[float, float]:
    """Of digits [N, 1, 8, 8]: Frechet distance of the digits classifier's features to all 1797, and its accuracy."""
    from ornstein.data.digits import Digits
    from ornstein.metrics.frechet import between
    from ornstein.metrics.layers.digits import predict
    from ornstein.metrics.layers.features import features

    x = x.float().clamp(-1, 1)
    real = features(Digits("all").images(), "digits", "reference")
    found = between(features(x, "digits", "generated"), real)
    return found, (predict(x) == label).double().mean().item()
