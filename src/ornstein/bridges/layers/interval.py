"""A pipeline's own guidance in an interval of times alone: outside of it, its unconditional branch is not computed.

After: Tuomas Kynkaanniemi, Miika Aittala, Tero Karras, Samuli Laine, Timo Aila, Jaakko Lehtinen, "Applying guidance in a limited
interval improves sample and distribution quality in diffusion models", 2024, arXiv:2404.07724. A pipeline asks its network
about both branches in one batch, or one after the other; where guidance is off, the conditional answer is given for both, and
whatever the pipeline makes of w + scale (c - w) is c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site
from ornstein.guidance.layers.contrast import ALWAYS, check_interval

__all__ = ["CONDITIONAL_FIRST", "OwnGuidance"]

CONDITIONAL_FIRST = ("DiTPipeline", "LuminaPipeline")  # all others have the unconditional half of the batch first


@dataclass(eq=False)
class OwnGuidance:
    """interval: flow times (low, high] of the guidance; process: the pipeline's; first: the conditional half is first; rows:
    pictures of the call under way, which its caller says. Without a limit it only watches: `branches` is what was seen."""

    process: Any
    interval: tuple[float, float] = ALWAYS
    first: bool = False
    rows: int = 0
    branches: int = 1
    said: dict[str, Any] = field(default_factory=dict, repr=False)

    effects = Effects.of(replaces="guidance")

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "network"]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        seen = next(len(v) for v in streams.values() if isinstance(v, Tensor))
        later = clock.evaluation > 0 and seen == self.rows  # one branch after the other: the conditional one comes first
        both = not later and seen == 2 * self.rows
        self.branches = max(self.branches, 2 if later or both else 1)
        place = float(self.process.at(float(clock.t), torch.zeros(1)).flow_time)
        if tuple(self.interval) == ALWAYS or self.interval[0] < place <= self.interval[1]:
            return run(streams)
        if later:
            return dict(self.said)
        if not both:
            self.said = run(streams)
            return self.said
        half = torch.arange(self.rows) + (0 if self.first else self.rows)
        said = run(streams, half)
        return {k: torch.cat([v, v]) if isinstance(v, Tensor) and len(v) == self.rows else v for k, v in said.items()}
