"""RAS: after some dense evaluations only the tokens that the model is working on pass through the blocks.

Region-Adaptive Sampling for Diffusion Transformers, Liu, Yang, Zhang, Zhang, Qiu, You, Yang, 2025, arXiv:2502.10389. With m_i a
measure of token i's last answer and D_i how often it was passed over, the active set of an evaluation is the ratio N
tokens of the highest sign * log m_i + k_s D_i. Only their queries are computed; keys and values of the others are those of
their last computation, layer by layer, and so is their answer. Cost: ratio of the blocks, one gather and scatter of keys
and values per layer, which are stored: 2 L N D per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.tokens import all_keys, as_answer, as_tokens, best, blocks_of, narrowed, pick, put
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["RAS"]


def _spread(now: Tensor, before: Tensor | None, channels: int) -> Tensor:
    return now.unflatten(2, (-1, channels)).std(3, unbiased=False).mean(2)


MEASURES = {
    "std": _spread,  # standard deviation over the channels, mean over the patch
    "norm": lambda now, before, channels: now.norm(dim=2),
    "change": lambda now, before, channels: (now if before is None else now - before).norm(dim=2),
}


@dataclass(frozen=True)
class RAS:
    """Each sample and branch has its own active tokens, all samples the same number. Counts are of evaluations."""

    ratio: float = 0.5  # of the tokens that are active (the paper: 0.5 on average); 1: all, always
    warmup: int = 4  # dense evaluations at the start (the paper: 4)
    refresh: int = 8  # a dense one follows after so many sparse ones (the paper: 8 to 10); 0: never
    measure: str = "norm"  # of a token's last answer: norm or std (both the paper's), or change since its last computation
    sign: int = 1  # 1: the large ones are active, -1: the small ones (released for Lumina); the model decides which is right
    starvation: float = 0.3  # k_s: what one passing-over adds to the log of the measure
    keys: bool = True  # keep keys and values of passive tokens; False: active tokens see only one another
    faithful: bool = False  # the released sign * log(m exp(k_s D)): with sign = -1 who is passed over stays so
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation tokens attention rows")

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or self.warmup < 1 or self.measure not in MEASURES or self.sign not in (1, -1):
            raise OrnsteinError(f"{self}", f"ratio is 0 to 1, warmup at least 1, sign 1 or -1, measure of {list(MEASURES)}.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        attention = [s for s in sites if s.grain == "attention" and s.role == "attention"] if self.keys else []
        return [*(s for s in sites if s.grain == "network"), *blocks_of(sites, "RAS"), *attention]

    def start(self) -> dict[str, Any]:
        return {"store": {}, "calls": 0, "since": 0}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.ratio == 1:
            return run(streams)
        if site.grain == "network":
            return self._network(clock, streams, run, memory)
        active = memory["active"]
        if site.grain == "attention":
            return run(all_keys(streams, memory["store"], site, active))
        name, x = next((k, v) for k, v in streams.items() if isinstance(v, Tensor))
        if active is None:
            memory["tokens"] = x.shape[1]
            return run(streams)
        if site.index == 0:
            streams = {**streams, name: pick(x, active)}
        out = narrowed(run, active, memory["tokens"])(streams)
        if site.index == site.count - 1:  # passive tokens may be anything here: their answer is replaced below
            out = {**out, name: put(out[name].new_zeros(len(x), memory["tokens"], x.shape[2]), active, out[name])}
        return out

    def _network(self, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        x = next(v for v in streams.values() if isinstance(v, Tensor))
        if memory.get("shape") != list(x.shape[1:]) or len(memory["score"]) != len(x):
            memory.clear()
            memory.update(self.start(), shape=list(x.shape[1:]))
        dense = memory["calls"] < self.warmup or (self.refresh and memory["since"] >= self.refresh)
        active = memory["active"] = None if dense else self._choose(memory)
        said = run(streams)
        name, answer = next((k, v) for k, v in said.items() if isinstance(v, Tensor))
        now, before = as_tokens(answer, memory["tokens"]), memory.get("answer")
        score = MEASURES[self.measure](now, before, answer.shape[1] if answer.ndim == 4 else answer.shape[2]).float()
        passed = torch.zeros(now.shape[:2], device=x.device)
        if active is not None:
            now, score = put(before, active, pick(now, active)), put(memory["score"], active, pick(score, active))
            passed = (memory["passed"] + 1).scatter_add(1, active, torch.full_like(active, -1, dtype=passed.dtype))
        memory.update(answer=now, score=score, passed=passed, calls=memory["calls"] + 1)
        memory["since"] = 0 if dense else memory["since"] + 1
        count = 0 if active is None else now.shape[1] - active.shape[1]
        note(run, clock, "ras", memory, {"tokens": now.shape[1], "tokens_passed_over": count})
        return said if dense else {**said, name: as_answer(now, answer.shape)}

    def _choose(self, memory: dict) -> Tensor:
        """The active tokens [B, n]."""
        small, starved = memory["score"].clamp_min(1e-12).log(), self.starvation * memory["passed"]
        rank = self.sign * (small + starved) if self.faithful else self.sign * small + starved
        return best(rank, max(1, round(self.ratio * rank.shape[1])))
