"""Faster Diffusion: compute the encoder of a U-Net at key steps only; in between its decoder runs on old features.

Faster Diffusion: Rethinking the Role of UNet Encoder in Diffusion Models, Li, Hu, Khan, Li, Wang, Cheng, Yang, 2023,
arXiv:2312.09608. At a key step all skips and the output of the middle are stored; at the others the prediction is
D(skips, mid, t) with the present t and the features of the last key step: the present x does not enter. The paper's
list for 50 steps is 0, 1, 2, 3, 5, 10, 15, 25, 35. Prior noise injection adds a little of x_T late in the run
(`PriorNoise`, a controller). Cost at a non-key step: decoder / all; the skips and one state are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["FasterDiffusion", "PriorNoise", "paper_keys"]


@dataclass(frozen=True)
class FasterDiffusion:
    """The schedule is the same for all samples; each branch of guidance has its own features."""

    interval: int = 0  # one key evaluation in so many; 1: never skip; 0: key steps from a list
    key_at: tuple[int, ...] = ()  # the list; empty: the paper's, stretched to the steps of the run
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
        return encoder

    def start(self) -> dict[str, Any]:
        return {"held": {}, "age": 0}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        if site.name == memory.setdefault("first", site.name):
            self._begin(site, clock, streams, run, memory)
        if not memory["key"]:
            return memory["held"][site.name]
        out = memory["held"][site.name] = run(streams)
        return out

    def _begin(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> None:
        """At the first stage: is this evaluation key."""
        x, old, memory["age"] = lead(streams), memory["held"].get(site.name), memory["age"] + 1
        fits = old is not None and memory["shape"] == x.shape[1:] and len(lead(old)) == len(x)
        if self.interval:
            due = memory["age"] >= self.interval
        else:
            due = clock.step in (self.key_at or paper_keys(clock.steps))
        memory["key"], memory["shape"] = due or not fits, x.shape[1:]
        memory["age"] = 0 if memory["key"] else memory["age"]
        counts = {"evaluations": 1, "evaluations_without_encoder": int(not memory["key"])}
        note(run, clock, "fasterdiffusion", memory["held"], counts)


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
