"""Extrapolation from a weak answer through a strong one, asked only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import gather

__all__ = ["ALWAYS", "branch", "check_interval", "contrast", "own"]

ALWAYS = (0.0, 1.0)

Ask = Callable[[Tensor, Any, Any, Clock], Prediction]


def branch(clock: Clock, name: str) -> Clock:
    """The clock on a branch; a rule inside another rule's branch gets a name of its own: 'uncond/bad'."""
    return clock.at(name if clock.branch == "cond" else f"{clock.branch}/{name}")


def own(clock: Clock) -> bool:
    """Whether the call is the run's own, of whichever network of a pipeline ('transformer_2:cond') and of whichever
    prompt takes turns ('concept1:cond'), not a further one of other guidance."""
    return clock.branch.rpartition(":")[2] == "cond"


def check_interval(interval: tuple[float, float]) -> None:
    """OrnsteinError unless 0 <= low < high <= 1."""
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise OrnsteinError(f"guidance interval {interval!r} is not a rising pair within [0, 1]",
                            "Give flow times s/(a+s), low then high; (0, 1) is everywhere.")  # fmt: skip


def contrast(strong: Prediction, ask: Ask, scale: float, interval: tuple[float, float], t: Any, cond: Any,
             clock: Clock) -> Prediction:  # fmt: skip
    """weak + scale (strong - weak) at flow times in (low, high], `strong` elsewhere.

    ask(x, t, cond, clock) -> the weak answer; it gets the rows that have a place inside, or is not called at all.
    Combined in the kind that the strong answer was given in: x0, noise, velocity, v and score are affine in each
    other with coefficients of (x, t) alone and the weights sum to 1, so every kind gives the same, and this one needs
    no division.
    """
    x, inside = strong.x, None
    if tuple(interval) != ALWAYS:
        place = strong.levels.flow_time
        inside = (place > interval[0]) & (place <= interval[1])
        rows = inside if inside.ndim == 0 else inside.flatten(1).any(1).expand(len(x))
        if not bool(rows.any()):
            return strong
        if bool(inside.all()):
            inside = None
        elif not bool(rows.all()):
            return _some(strong, ask, scale, inside, rows.nonzero()[:, 0], t, cond, clock)
    weak = ask(x, t, cond, clock).get(strong.kind)
    value = weak + scale * (strong.value - weak)
    return strong.like(strong.kind, value if inside is None else torch.where(inside, value, strong.value))


def _some(strong: Prediction, ask: Ask, scale: float, inside: Tensor, index: Tensor, t: Any, cond: Any,
          clock: Clock) -> Prediction:  # fmt: skip
    """The rows `index` alone: the batch stands at different times."""
    batch = len(strong.x)
    few = replace(
        clock, ids=tuple(clock.ids[i] for i in index.tolist()) if clock.ids else (), t=gather(clock.t, index, batch)
    )
    weak = ask(strong.x[index], gather(t, index, batch), gather(cond, index, batch), few).get(strong.kind)
    old = strong.value[index]
    new = torch.where(inside.expand(batch, *inside.shape[1:])[index], weak + scale * (old - weak), old)
    return strong.like(strong.kind, strong.value.index_copy(0, index, new))
