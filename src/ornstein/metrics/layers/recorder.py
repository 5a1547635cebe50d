"""A controller that keeps what a run's trajectories passed through, for metrics that compare whole trajectories."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Controller, State
from ornstein.core.seam import Run

__all__ = ["Recorder"]


@dataclass(frozen=True)
class Recorder(Controller):
    """Keeps one tensor [B, ...] a step: the estimate of the data that the step began with, or the state it led to.

    What is kept lies in State.facts: it follows particles that are chosen and forgets steps that are taken back. Put it
    last among the controllers. Read it after the run: `Recorder("x0").read(run)`.
    """

    kind: str = "x0"  # 'x0' (State.said.x0), or 'x'

    def __post_init__(self) -> None:
        if self.kind not in ("x0", "x"):
            raise unknown("kind of record", self.kind, ("x0", "x"))

    @property
    def key(self) -> str:
        return f"trajectory.{self.kind}"

    def begin(self, state: State) -> State:
        state.facts.pop(self.key, None)
        return state

    def after(self, before: State, now: State) -> State:
        if now.step <= before.step:  # a controller before this one has rewound: its state knows its own past
            return now
        seen = now.x if self.kind == "x" else now.said.x0
        return replace(now, facts=now.facts | {self.key: (*now.facts.get(self.key, ()), seen)})

    def read(self, run: Run) -> Tensor:
        """The trajectories [B, T, ...] of a finished run."""
        kept = run.record.facts.get(self.key, ())
        if not kept:
            raise OrnsteinError(f"the run has no record of '{self.kind}'", "Give sample() this recorder and its run.")
        return torch.stack(kept, 1)
