"""Confidence-gated forecast: where a polynomial foretells the first block well, the last block's is believed too.

Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor, Guan, Jiang, Chen, et al., 2025,
arXiv:2508.02240. The first block is always computed, h_0 = B_0(h). A sample whose own forecast H_0 of it, through its last
full evaluations, errs by mean|H_0 - h_0| < threshold mean|h_0| takes the forecast of what leaves the last block; the others
go on. Verification by a later block, and a threshold that falls over the run, tau decay^(k/K), are those of SpeCa:
Accelerating Diffusion Transformers with Speculative Feature Caching, Liu, Zou, Lyu, et al., 2025, arXiv:2509.11628. A skip
costs verify + 1 blocks of L; m + 1 outputs of each stage and check_order + 1 of the verified block are stored; the gate
waits for the device once per evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.forecast import forecast, place, push
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import carry, lead, minus, pick, plus, relative, trunk
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Confident"]


@dataclass(frozen=True)
class Confident:
    """Decides for each sample by itself, with tables of its own full evaluations."""

    threshold: float = 0.008  # tau: largest relative error of the verified forecast (the paper's for DiT-XL/2); 0: never skip
    decay: float = 1.0  # the threshold at the end of the run over that at its start; 1: constant, as in the paper
    order: int = 1  # m of the forecast at the end of a stage (the paper's)
    check_order: int = 3  # of the forecast that is verified (the paper's)
    verify: int = 0  # the block of the first stage whose forecast is verified; it and those before are always computed
    payload: str = "output"  # what is forecast: a stage's 'output' (the paper), or its 'residual' over the verified block
    warmup: int = 3  # evaluations of a branch that are always full (the paper: the first and two more)
    limit: int = 0  # most evaluations in a row that a sample may skip; 0: no limit
    faithful: bool = False  # the published series over evaluations, instead of the polynomial over times
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.payload not in ("output", "residual"):
            raise OrnsteinError(f"Confident(payload='{self.payload}')", "Forecast the 'output' or the 'residual'.")
        if min(self.order, self.check_order, self.verify) < 0 or self.warmup < 1:
            raise OrnsteinError(f"{self}", "order, check_order and verify are at least 0, warmup at least 1.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        blocks = trunk(sites, "Confident")
        fewest = min((s.count for s in blocks), default=0)
        if blocks and fewest <= self.verify + 1:
            raise OrnsteinError(f"Confident(verify={self.verify}) leaves nothing of a stage of {fewest} blocks",
                                f"Verify block {max(fewest - 2, 0)} or an earlier one.")  # fmt: skip
        return blocks

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "check": None, "ends": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.threshold <= 0:
            return run(streams)
        first = memory.setdefault("first", site.stage)  # the stage that is called first, whatever its name
        if site.stage == first and site.index < self.verify:
            return run(streams)
        if site.stage == first and site.index == self.verify:
            return self._verified(clock, streams, run, memory)
        at = memory["at"]

        def fill(site: Site, streams: Streams) -> Streams:
            said = forecast(memory["ends"][site.stage], at, self.faithful)
            return said if self.payload == "output" else plus(streams, said)

        def learn(site: Site, begin: Streams, end: Streams, rows: Tensor | None) -> None:
            value = minus(end, begin, site) if self.payload == "residual" else {k: end[k] for k in begin}
            memory["ends"][site.stage] = push(memory["ends"].get(site.stage), self.order + 1, at, value, rows)

        begins = site.index == (self.verify + 1 if site.stage == first else 0)
        return carry(site, begins, streams, run, memory, fill, learn)

    def _verified(self, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """Compute the block to verify by, and decide which rows go on: None is all of them."""
        out = run(streams)
        said = {"h": out[next(k for k, v in streams.items() if v is lead(streams))]}
        value, calls = said["h"], memory["calls"]
        shape = memory.get("shape")
        if shape != value.shape:
            calls, memory["check"], memory["ends"] = 0, None, {}
            memory["skips"] = torch.zeros(len(value), dtype=torch.long, device=value.device)
        at = torch.full_like(place(clock, value), calls) if self.faithful else place(clock, value)
        rows = None if calls < self.warmup or clock.step == clock.steps - 1 else self._decide(value, at, clock, memory)
        keep = self.check_order + 1
        if rows is None or len(rows):
            part = said if rows is None else pick(said, rows)
            memory["check"] = push(memory["check"], keep, at, part, rows)
        memory.update(calls=calls + 1, at=at, shape=value.shape, rows=rows)
        skipped = 0 if rows is None else len(value) - len(rows)
        note(run, clock, "confident", memory, {"samples": len(value), "samples_skipped": skipped})
        return out

    def _decide(self, value: Tensor, at: Tensor, clock: Clock, memory: dict) -> Tensor | None:
        bound = self.threshold * self.decay ** (clock.step / max(clock.steps, clock.step, 1))
        error = relative(forecast(memory["check"], at, self.faithful)["h"], value)
        compute = ~(error < bound)  # also where it is not a number
        if self.limit:
            compute |= memory["skips"] >= self.limit
        memory["skips"] = torch.where(compute, 0, memory["skips"] + 1)
        rows = compute.nonzero()[:, 0]
        return None if len(rows) == len(value) else rows
