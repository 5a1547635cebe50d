"""Where the coming step ends: for rules whose answer depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process, grid, remembered

__all__ = ["Rule", "end_of_step"]

Rule = str | Sequence[float]  # the run's own time grid: a part of grids/ by name, or the times


def _times(process: Process, steps: int, rule: Any) -> tuple[float, ...]:
    return tuple(grid(process, steps, rule).tolist())


_known = remembered(_times)


@lru_cache(maxsize=256)
def _given(rule: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(grid(None, 1, rule).tolist())


def end_of_step(process: Process, clock: Clock, t: Any, rule: Rule) -> float:
    """The time at which the step of the clock ends, on the grid `rule` of the run.

    t: the time asked for, [] or a number. OrnsteinError where the grid is not the run's, the solver asks between the
    grid's times, or the rows of the batch stand at times of their own.
    """
    if isinstance(t, Tensor) and t.ndim:
        raise OrnsteinError("rows at times of their own have no common end of the step", "Give one time for the batch.")
    times = _known(process, clock.steps, rule) if isinstance(rule, str) else _given(tuple(float(v) for v in rule))
    known = clock.step < len(times) - 1 and abs(times[clock.step] - float(t)) <= 1e-6 * max(1.0, abs(float(t)))
    if not known:
        what = f"step {clock.step} of {clock.steps} asks at time {float(t):.6g}, not where the grid {rule!r} has it"
        raise OrnsteinError(what, "Give the guidance the run's own grid, and a solver of one call per step.")
    return times[clock.step + 1]
