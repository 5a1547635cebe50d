"""First-block cache: where the first block says the same as before, reuse what the other blocks said.

The idea of ParaAttention's FBCache (C. Cheng, 2024), a gate in the line of TeaCache (Timestep Embedding Tells: It's
Time to Cache for Video Diffusion Model, Liu, Zhang, Wang, et al., 2024, arXiv:2411.19108). With h the input of the
first block, r = B_1(h) - h its residual and r' that of the sample's last full evaluation, the sample skips where
mean|r - r'| < threshold mean|r'|: each stage of blocks then adds its stored residual R = h_end - h_begin instead of
being computed. The first block always is. A skipping evaluation costs 1 block of L, and r and one R per stage are
stored; the gate waits for the device once per evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import carry, minus, plus, put, trunk
from ornstein.acceleration.layers.store import check_store, pack, unpack
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["FirstBlock"]


@dataclass(frozen=True)
class FirstBlock:
    """Decides for each sample by itself; samples that must be computed are computed together, without the others."""

    threshold: float = 0.1  # relative change of the first residual below which a sample skips; 0: never
    warmup: int = 1  # evaluations of a branch that are always full
    limit: int = 0  # most evaluations in a row that a sample may skip; 0: no limit
    store: str = "plain"  # how residuals are kept: plain, half or host
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        check_store("firstblock", self.store)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """All blocks of the stages of more than two blocks where there are such; short refiners stay computed."""
        return trunk(sites, "FirstBlock")

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "residual": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        first = memory.setdefault("first", (site.name, site.stage))  # the block that is called first, whatever its name
        if site.name == first[0]:
            return self._first(clock, streams, run, memory)
        if not self.threshold:
            return run(streams)
        begins, kept = site.index == (1 if site.stage == first[1] else 0), memory["residual"]

        def learn(site: Site, begin: Streams, end: Streams, rows: Tensor | None) -> None:
            new = minus(end, begin, site)
            new = new if rows is None else put(unpack(kept[site.stage]), rows, new)
            kept[site.stage] = pack(new, self.store)

        return carry(site, begins, streams, run, memory, lambda site, begin: plus(begin, unpack(kept[site.stage])), learn)

    def _first(self, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """Compute the first block and decide which rows go on: None is all of them."""
        out = run(streams)
        name = next(n for n in streams if isinstance(out.get(n), Tensor))  # the first argument: the image's tokens
        rows = self._decide(out[name] - streams[name], memory) if self.threshold > 0 else None
        memory["rows"], memory["calls"] = rows, memory["calls"] + 1
        batch = len(out[name])
        skipped = 0 if rows is None else batch - len(rows)
        note(run, clock, "firstblock", memory, {"samples": batch, "samples_skipped": skipped})
        return out

    def _decide(self, change: Tensor, memory: dict) -> Tensor | None:
        known = memory.get("change")
        if memory["calls"] < self.warmup or known is None or known.shape != change.shape:
            memory["change"] = pack(change, self.store)
            memory["skips"] = torch.zeros(len(change), dtype=torch.long, device=change.device)
            return None
        axes, known = tuple(range(1, change.ndim)), unpack(known)
        moved, size = (change - known).abs().float().mean(axes), known.abs().float().mean(axes)
        compute = ~(moved < self.threshold * size)  # also where it is not a number
        if self.limit:
            compute |= memory["skips"] >= self.limit
        memory["skips"] = torch.where(compute, 0, memory["skips"] + 1)
        memory["change"] = pack(torch.where(compute.view(-1, *[1] * len(axes)), change, known), self.store)
        rows = compute.nonzero()[:, 0]
        return None if len(rows) == len(change) else rows
