"""HarmoniCa: a learned table says which attention and mlp is computed at which step, and which is taken from before.

HarmoniCa: Harmonizing Training and Inference for Better Feature Cache in Diffusion Transformer Acceleration, Huang,
Wang, Gong, Liu, Zhang, Guo, Liu, Zhang, 2024, arXiv:2410.01723. With a router r in R^{T x 2L} and w = sigmoid(r), a branch
output F at step t is computed and kept where w > tau, else what was kept is used again. The table is learned by
recipes/train_harmonica on the cached trajectory itself. Cost: the table's share of the branches; one output of each
branch is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["HarmoniCa", "branches"]

ROLES = ("attention", "cross_attention", "mlp")


@dataclass(frozen=True)
class HarmoniCa:
    """The same table for all samples, branches of guidance and evaluations of a step; its first row is always computed."""

    router: str | Path | Artefact = ""  # what was learned: its array `router` [T, K] holds r, for K branches in order
    interval: int = 3  # without a router: the uniform table, all branches at every N-th step; 1: never skip
    threshold: float = 0.1  # tau (the paper's)
    table: Tensor | None = field(init=False, repr=False, compare=False)  # bool [T, K], true is computed
    names: tuple[str, ...] = field(init=False, repr=False)  # of the K branches
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.interval < 1 or not 0 <= self.threshold < 1:
            raise OrnsteinError(f"HarmoniCa(interval={self.interval}, threshold={self.threshold})",
                                "interval is at least 1, threshold in [0, 1).")  # fmt: skip
        table, names = None, ()
        if self.router:
            found = self.router if isinstance(self.router, Artefact) else Artefact.load(self.router, "harmonica")
            table, names = found.arrays["router"].sigmoid().cpu() > self.threshold, tuple(found.settings["branches"])
            table[0] = True
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "names", names)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        found = branches(sites)
        if self.names and tuple(s.name for s in found) != self.names:
            mine, here = len(self.names), len(found)
            raise OrnsteinError(f"this router is of {mine} branches, from '{self.names[0]}', and does not fit the {here} here",
                                "Train one on this network with recipes/train_harmonica.")  # fmt: skip
        return found

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.table is None and self.interval == 1:
            return run(streams)
        if site.name == next(iter(memory), site.name):
            note(run, clock, "harmonica", memory, {"evaluations": 1})
        shape, kept = tuple(lead(streams).shape), memory.get(site.name)
        if kept is None or kept["shape"] != shape[1:] or len(lead(kept["out"])) != shape[0] or self._computes(site, clock):
            memory[site.name] = kept = {"shape": shape[1:], "out": run(streams)}
        return kept["out"]

    def _computes(self, site: Site, clock: Clock) -> bool:
        if self.table is None:
            return clock.step % self.interval == 0
        if clock.steps != len(self.table):
            raise OrnsteinError(f"this router was learned for {len(self.table)} steps, and this run has {clock.steps}",
                                f"Sample with {len(self.table)} steps, or train another.")  # fmt: skip
        return bool(self.table[clock.step, self.names.index(site.name)])


def branches(sites: Sequence[Site]) -> list[Site]:
    """The branches that a table has columns for, in the order of the network's modules."""
    return [s for s in sites if s.grain == "branch" and s.role in ROLES]
