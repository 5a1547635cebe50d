"""Skip given blocks at given steps: the residual stream passes a left-out block by as if it added nothing.

The architecture half of AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated Diffusion
Model Acceleration, Li et al., 2023, arXiv:2309.10438: x_{l+1} = x_l for l in skip[k] at step k, else x_l + F_l(x_l). Which
blocks is for a search to say (search/autodiffusion) or for the user. A step costs 1 - |skip[k]| / L of the blocks; nothing
is stored, and nothing of an earlier step is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ornstein.acceleration.layers.ledger import note
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Skip"]


@dataclass(frozen=True)
class Skip:
    """The same for all samples, branches and evaluations of a step."""

    blocks: tuple[tuple[int, ...], ...] = ()  # for each step of the run the blocks left out, by their place, 0 first
    schedule: str | Path | Artefact = ""  # a found schedule (file or Artefact) instead: its array `blocks` [steps, L]
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        blocks: Any = self.blocks
        if self.schedule:
            found = self.schedule
            found = found if isinstance(found, Artefact) else Artefact.load(found, "schedule")
            if "blocks" not in found.arrays:
                raise OrnsteinError("this schedule skips no blocks", "Search with a start that has 'blocks'.")
            blocks = [row.nonzero()[:, 0].tolist() for row in found.arrays["blocks"]]
        if not all(isinstance(row, (tuple, list)) and all(isinstance(b, int) and b >= 0 for b in row) for row in blocks):
            raise OrnsteinError(f"blocks={blocks!r} are not lists of places", "Write ((), (2, 3), (2,)): one list per step.")
        object.__setattr__(self, "blocks", tuple(map(tuple, blocks)))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """The blocks that some step leaves out; all of them where none does, so that the record says so."""
        if any(s.grain == "stage" for s in sites):
            raise OrnsteinError("Skip does not fit a U-Net: its stages change the resolution and hand on skips",
                                "Use deepcache.")  # fmt: skip
        blocks = [s for s in sites if s.grain == "block"]
        named = {b for row in self.blocks for b in row}
        foreign = sorted(named - {s.depth for s in blocks})
        if foreign:
            raise OrnsteinError(f"Skip names block {foreign[0]} of a network of {len(blocks)} blocks",
                                f"Its blocks are 0 to {len(blocks) - 1}.")  # fmt: skip
        return [s for s in blocks if s.depth in named or not named]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.blocks and clock.steps != len(self.blocks):
            raise OrnsteinError(f"Skip lists blocks for {len(self.blocks)} steps, and this run has {clock.steps}",
                                f"Sample with {len(self.blocks)} steps.")  # fmt: skip
        skips = bool(self.blocks) and site.depth in self.blocks[clock.step]
        note(run, clock, "skip", memory, {"blocks": 1, "blocks_skipped": int(skips)})
        return streams if skips else run(streams)
