"""Inner Loop Feedback: between full evaluations a small learned block moves kept features on to the present time.

Accelerate High-Quality Diffusion Models with Inner Loop Feedback, Gwilliam, Cai, Wu, Shrivastava, Cheng, 2025,
arXiv:2501.13107. A full evaluation at t_0 keeps h_a, what enters block a; an inner one at t sets h_a + gamma u, u =
f(h_a, t), and computes the blocks from a on and the head. Here gamma = (t_0 - t) / r with the unit r, so that nothing
moves where no time has passed, and f is a narrow block, modulated by t and t_0. recipes/train_ilf teaches f on a frozen
network; without it the kept features are used as they are. An inner evaluation costs f and the last L - a blocks; one
h_a is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.forecast import place, wide
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.router import FEATURES, features
from ornstein.acceleration.layers.spans import lead, trunk
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["ILF", "feedback", "fresh"]


@dataclass(frozen=True)
class ILF:
    """All rows are computed or moved on together; each has its own times."""

    interval: int = 2  # one full evaluation in so many (the paper alternates); 1: never skip
    passed: int = 0  # a: blocks of a stage that an inner evaluation passes by; 0: all of them
    predictor: str | Path | Artefact = ""  # what was learned; without it gamma = 0, and features are kept as they are
    warmup: int = 1  # full evaluations at the start
    weights: Mapping[str, Tensor] | None = field(init=False, repr=False, compare=False)  # of f, see `fresh`
    unit: float = field(init=False, repr=False)  # r
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if min(self.interval, self.warmup) < 1 or self.passed < 0:
            raise OrnsteinError(f"ILF(interval={self.interval}, passed={self.passed}, warmup={self.warmup})",
                                "interval and warmup are at least 1, passed at least 0.")  # fmt: skip
        weights, unit = None, 1.0
        if self.predictor:
            found = self.predictor if isinstance(self.predictor, Artefact) else Artefact.load(self.predictor, "ilf")
            weights, unit = {k: v.float() for k, v in found.arrays.items()}, found.settings["unit"]
            if found.settings["passed"] != self.passed or found.settings["interval"] < self.interval:
                known = {k: found.settings[k] for k in ("passed", "interval")}
                raise OrnsteinError(f"this feedback was learned for passed={known['passed']}, interval={known['interval']} or "
                                    "less", "Use it so, or train another.")  # fmt: skip
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "unit", unit)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        found = trunk(sites, "ILF")
        stages = {s.stage for s in found}
        if self.weights is not None and len(stages) > 1:
            raise OrnsteinError(f"ILF learned one feedback, and this network has {len(stages)} stages of blocks", "Use lesa.")
        if any(self.passed > s.count for s in found):
            raise OrnsteinError(f"ILF(passed={self.passed}) passes by more blocks than a stage has",
                                f"Pass by at most {min(s.count for s in found)}.")  # fmt: skip
        return found

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "full": 0, "kept": {}, "shape": None}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        if site.name == memory.setdefault("first", site.name):
            self._begin(tuple(lead(streams).shape), memory)
            note(run, clock, "ilf", memory["kept"], {"evaluations": 1, "inner_evaluations": int(not memory["due"])})
        passed = self.passed or site.count
        if memory["due"] or site.index >= passed:
            out = run(streams)
            if memory["due"] and site.index == passed - 1:
                memory["kept"][site.stage] = {"at": place(clock, lead(out)), "out": out}
            return out
        return self.forecast(clock, memory["kept"][site.stage]) if site.index == passed - 1 else streams

    def _begin(self, shape: tuple, memory: dict) -> None:
        """Decide whether this evaluation is full: memory['due']."""
        if memory["shape"] != shape:
            memory |= {"calls": 0, "full": 0, "kept": {}, "shape": shape}
        call = memory["calls"]
        memory["due"] = call < self.warmup or call - memory["full"] >= self.interval
        memory["calls"], memory["full"] = call + 1, call if memory["due"] else memory["full"]

    def forecast(self, clock: Clock, kept: dict) -> Streams:
        """What was kept, moved on to the clock's time; streams after the first stay."""
        if self.weights is None:
            return kept["out"]
        h, name = lead(kept["out"]), next(k for k, v in kept["out"].items() if isinstance(v, Tensor))
        if h.shape[-1] != self.weights["up"].shape[0]:
            raise OrnsteinError(f"this feedback is of width {self.weights['up'].shape[0]}, and the features of {h.shape[-1]}",
                                "Train one on this network with recipes/train_ilf.")  # fmt: skip
        t = place(clock, h)
        gap = ((kept["at"] - t) / self.unit).to(torch.float32)
        u = feedback(self.weights, wide(h), t, kept["at"])
        return kept["out"] | {name: (wide(h) + gap.view(-1, 1, 1) * u).to(h.dtype)}


def feedback(weights: Mapping[str, Tensor], h: Tensor, t: Tensor, at: Tensor) -> Tensor:
    """f: tokens h [B, N, D] that were said at `at` [B], for the time t [B] -> like h. One attention and one mlp."""
    w = {k: v.to(h.device, h.dtype) for k, v in weights.items()}
    shift, scale = F.linear(torch.cat([features(t), features(at)], 1).to(h.dtype), w["time"], w["time_bias"])[:, None].chunk(2, -1)
    z = F.linear(F.layer_norm(h, h.shape[-1:]), w["down"]) * (1 + scale) + shift
    q, k, v = F.linear(F.layer_norm(z, z.shape[-1:]), w["qkv"]).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    z = z + F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), w["out"])
    z = z + F.linear(F.gelu(F.linear(F.layer_norm(z, z.shape[-1:]), w["mlp_in"])), w["mlp_out"])
    return F.linear(F.layer_norm(z, z.shape[-1:]), w["up"], w["up_bias"]) * w["scale"]


def fresh(width: int, rank: int, source: torch.Generator) -> dict[str, Tensor]:
    """The weights of f for features of `width` and an inside of `rank`, divisible by 4; the last layer is 0. scale [D]: how
    much a feature moves in one unit of time."""
    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=source) * columns**-0.5

    return {"down": draw(rank, width), "time": draw(2 * rank, 2 * FEATURES) * 0.3, "time_bias": torch.zeros(2 * rank),
            "qkv": draw(3 * rank, rank), "out": draw(rank, rank), "mlp_in": draw(2 * rank, rank),
            "mlp_out": draw(rank, 2 * rank), "up": torch.zeros(width, rank), "up_bias": torch.zeros(width),
            "scale": torch.ones(width)}  # fmt: skip
