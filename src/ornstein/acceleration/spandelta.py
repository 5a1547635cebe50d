"""Delta-DiT: pass a span of blocks by, adding what it added before: rear blocks early, front blocks late.

Delta-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers, Chen, Shen, Ye, et al., 2024,
arXiv:2406.01125. A full evaluation stores Delta = h_{i+Nc} - h_i of the span [i, i + Nc) of the L blocks; the N - 1
evaluations after it set h_{i+Nc} = h_i + Delta with the present h_i, and compute the other blocks. In the first b steps
(the outline) the span is the last Nc blocks, afterwards (the detail) the first Nc. Cost per evaluation:
1 - (N - 1) / N Nc / L; two offsets are stored before the switch, one after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import minus, plus
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["SpanDelta"]

PLACES = {"rear_front": ("rear", "front"), "front_rear": ("front", "rear"), "rear": ("rear", "rear"),
          "front": ("front", "front")}  # fmt: skip


@dataclass(frozen=True)
class SpanDelta:
    """The schedule counts the evaluations of each branch of guidance, and is the same for all samples."""

    interval: int = 2  # N: one full evaluation in so many (the paper's 2); 1: never skip
    share: float = 0.5  # Nc / L, in (0, 1); the paper's speed-up of 1.6 at N = 2 needs 0.75
    switch: float = 0.5  # b / T: share of the steps before the span changes its place; to be tuned
    order: str = "rear_front"  # or front_rear, rear, front: where the span lies before and after the switch
    offset: bool = True  # False keeps the span's old output instead, which forgets its input: for comparison only
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.order not in PLACES:
            raise unknown("order of spans", self.order, PLACES)
        if self.interval < 1 or not 0 < self.share < 1 or not 0 <= self.switch <= 1:
            raise OrnsteinError(f"SpanDelta(interval={self.interval}, share={self.share}, switch={self.switch})",
                                "interval is at least 1, share between 0 and 1, switch from 0 to 1.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """The longest run of like blocks; a span does not reach over blocks of another kind."""
        if any(s.grain == "stage" for s in sites):
            raise OrnsteinError("SpanDelta does not fit a U-Net: its stages change the resolution and hand on skips",
                                "Use deepcache or fasterdiffusion.")  # fmt: skip
        blocks = [s for s in sites if s.grain == "block"]
        stage, count = Counter(s.stage for s in blocks).most_common(1)[0] if blocks else (0, 0)
        return [s for s in blocks if s.stage == stage] if count > 1 else []

    def start(self) -> dict[str, Any]:
        return {"offset": {}, "begin": {}, "age": 0}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        if site.index == 0:
            self._begin(clock, streams, run, memory)
        if not memory["full"]:
            low, high = self._span(memory["place"], site.count)
            if not low <= site.index < high:
                return run(streams)
            old = memory["offset"][memory["place"]]
            return streams if site.index > low else plus(streams, old) if self.offset else streams | old
        places = [(p, *self._span(p, site.count)) for p in memory["wanted"]]
        memory["begin"] |= {p: streams for p, low, _ in places if site.index == low}
        out = run(streams)
        for place, _, high in places:
            if site.index == high - 1:
                begin = memory["begin"].pop(place)
                memory["offset"][place] = minus(out, begin, site) if self.offset else out
        return out

    def _span(self, place: str, count: int) -> tuple[int, int]:
        """[low, high) of the blocks passed by."""
        size = min(count - 1, max(1, round(self.share * count)))
        return (0, size) if place == "front" else (count - size, count)

    def _begin(self, clock: Clock, streams: Streams, run: Call, memory: dict) -> None:
        """At the first block: is this evaluation full, and where does the span lie."""
        early, late = PLACES[self.order]
        place = early if clock.step < self.switch * clock.steps else late
        wanted = {early, late} if place == early else {late}
        memory["offset"] = {p: v for p, v in memory["offset"].items() if p in wanted}
        old, memory["age"] = memory["offset"].get(place), memory["age"] + 1
        fits = old is not None and all(v.shape == streams[k].shape for k, v in old.items() if isinstance(v, Tensor))
        memory["full"] = not fits or memory["age"] >= self.interval
        if memory["full"]:
            memory["age"], memory["offset"], memory["begin"] = 0, memory["offset"] if fits else {}, {}
        memory["place"], memory["wanted"] = place, tuple(sorted(wanted))
        counts = {"evaluations": 1, "evaluations_with_a_span_skipped": int(not memory["full"])}
        note(run, clock, "spandelta", memory["offset"], counts)
