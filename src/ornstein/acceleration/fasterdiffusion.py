"""Faster Diffusion: compute the encoder of a U-Net at key steps only; in between its decoder runs on old features.

Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models, Li, Hu, Khan, Li, Wang, Cheng, Yang, 2023,
arXiv:2312.09608. At a key step all skips and the output of the middle are stored; at the others the prediction is
D(skips, mid, t) with the present t and the features of the last key step: the present x does not enter, so that with
`parallel` the decoders of all evaluations until the next key step run in one batch. The paper's list for 50 steps is
0, 1, 2, 3, 5, 10, 15, 25, 35. Prior noise injection adds a little of x_T late in the run (`PriorNoise`, a controller).
Cost at a non-key step: decoder / all; the skips and one state are stored, and in a batch as many copies of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ornstein.acceleration.layers.ahead import ahead, coming, copies
from ornstein.acceleration.layers.ledger import held, note
from ornstein.acceleration.layers.spans import lead
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.seam import Call, Streams, gather
from ornstein.core.sites import Site

__all__ = ["FasterDiffusion", "PriorNoise", "paper_keys"]


@dataclass(frozen=True)
class FasterDiffusion:
    """The schedule is the same for all samples; each branch of guidance has its own features."""

    interval: int = 0  # one key evaluation in so many; 1: never skip; 0: key steps from a list
    key_at: tuple[int, ...] = ()  # the list; empty: the paper's, stretched to the steps of the run
    parallel: bool = False  # the decoders of all coming evaluations until the next key step in one batch
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.interval < 0 or (self.interval and self.key_at):
            raise OrnsteinError(f"FasterDiffusion(interval={self.interval}, key_at={self.key_at})",
                                "Give an interval of at least 1, or the steps that are key.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        encoder = [s for s in sites if s.grain == "stage" and s.role in ("down", "mid")]
        if not encoder:
            raise OrnsteinError("FasterDiffusion needs a U-Net: this network has no encoder whose skips could be kept",
                                "Use spandelta, firstblock or taylorseer on a transformer.")  # fmt: skip
        return [s for s in sites if s.grain == "network"] * self.parallel + encoder

    def start(self) -> dict[str, Any]:
        return {"held": {}, "age": 0, "answers": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        if site.name == memory.setdefault("first", site.name):
            self._begin(site, clock, streams, run, memory)
        if site.grain == "network":
            return self._whole(site, clock, streams, run, memory)
        if "rows" in memory:  # a batch of several copies of all samples
            return gather(memory["held"][site.name], memory["rows"], memory["batch"])
        if not memory["key"]:
            return memory["held"][site.name]
        out = memory["held"][site.name] = run(streams)
        return out

    def _begin(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> None:
        """At the first stage: is this evaluation key."""
        x, old = lead(streams), next(iter(memory["held"].values()), None)
        memory["age"] += 1
        fits = old is not None and memory["shape"] == x.shape[1:] and len(lead(old)) == len(x)
        if self.interval:
            due = memory["age"] >= self.interval
        else:
            due = clock.step in (self.key_at or paper_keys(clock.steps))
        memory["key"], memory["shape"] = due or not fits, x.shape[1:]
        memory["age"] = 0 if memory["key"] else memory["age"]
        counts = {"evaluations": 1, "evaluations_without_encoder": int(not memory["key"])}
        note(run, clock, "fasterdiffusion", [memory["held"], list(memory["answers"].values())], counts)

    def _whole(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """The network's answer: computed, or from the batch that was computed ahead."""
        t = torch.as_tensor(clock.t)
        known = memory["answers"].get(float(t)) if t.ndim == 0 and not memory["key"] else None
        if known is not None:
            return known
        memory["answers"] = {}
        times = [] if memory["key"] else coming(clock, self._span(clock, memory))
        if len(times) < 2:
            return run(streams)
        batch, ids = len(lead(streams)), copies(clock, len(times), len(lead(streams)))
        inside = run.run.memory(self, replace(clock, ids=ids), run.network)
        rows = torch.arange(batch, device=lead(streams).device).repeat(len(times))
        inside |= {"held": memory["held"], "first": memory["first"], "rows": rows, "batch": batch}
        try:
            said = ahead(site, clock, streams, run, times)
        finally:
            del inside["rows"]
            inside["held"] = memory["held"] if inside is memory else {}
        memory["answers"] = dict(zip(times, said))
        facts = run.run.record.facts["fasterdiffusion"][str(clock.branch)]
        facts["batch_bytes"] = max(facts.get("batch_bytes", 0), held(memory["held"]) * len(times))
        facts["copies"] = max(facts.get("copies", 0), len(times))
        return memory["answers"][times[0]]

    def _span(self, clock: Clock, memory: dict) -> int:
        """Evaluations after this one until the next that is key."""
        if self.interval:
            return self.interval - 1 - memory["age"]
        later = [k for k in self.key_at or paper_keys(clock.steps) if k > clock.step]
        return min(later, default=clock.steps) - 1 - clock.step


def paper_keys(steps: int) -> tuple[int, ...]:
    """The key steps published for 50 steps, stretched to `steps`."""
    return tuple(sorted({round(k * steps / 50) for k in (0, 1, 2, 3, 5, 10, 15, 25, 35)}))


@dataclass(frozen=True)
class PriorNoise(Controller):
    """Adds strength x_T to the state after each step that ends at a time below `below`, but not after the last."""

    strength: float = 0.003  # the paper's, for latents of unit size
    below: float = 0.5

    def begin(self, state: State) -> State:
        return replace(state, facts=state.facts | {"prior_noise": state.x})

    def after(self, before: State, now: State) -> State:
        if now.step >= now.steps or float(now.times[now.step]) >= self.below or self.strength == 0:
            return now
        return replace(now, x=now.x + self.strength * now.facts["prior_noise"])
