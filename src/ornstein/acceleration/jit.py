"""JiT: start on a sparse grid of anchor tokens, lift what they say to all tokens, and let more tokens join stage by stage.

Just-in-Time: Training-Free Spatial Acceleration for Diffusion Transformers, 2026. On the active tokens Omega_k of stage k
u = model(y_Omega, t); elsewhere V = Phi(u), the nearest active token's value blurred. New tokens, those of the highest 3x3
variance of V, join at y* = (1 - t) Phi(x0) + t eps with their first noise eps. A plugin cannot move the solver's y, but it
need not: with g = (y - y*) / t the network is shown y - g t and V = u + g is answered, which carries y - g t along as Euler
would. Cost: |Omega_k| / N of the blocks from the first evaluation on, in attention less; four [N, C] are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.tokens import (
    as_answer,
    as_tokens,
    best,
    blocks_of,
    grid_of,
    lift,
    narrowed,
    pick,
    put,
)
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["JiT"]


@dataclass(frozen=True)
class JiT:
    """For networks on the flow x_t = (1 - t) x0 + t eps that say the velocity or x0. Each sample has its own tokens."""

    ends: tuple[float, ...] = (0.4, 0.65)  # stages end at these shares of the steps; a last, full one follows (the paper)
    densities: tuple[float, ...] = (0.35, 0.62)  # of active tokens in these stages (the paper's 4x preset)
    predicts: str = "velocity"  # what the network says: velocity or x0
    faithful: bool = False  # new tokens go but a third of the way to y*, as released
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation tokens")

    def __post_init__(self) -> None:
        rising = all(list(v) == sorted(v) and all(0 < x <= 1 for x in v) for v in (self.ends, self.densities))
        if not rising or len(self.ends) != len(self.densities) or self.predicts not in ("velocity", "x0"):
            raise OrnsteinError(f"{self}", "ends and densities are as many, rise, and lie in (0, 1]; predicts velocity or x0.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [*(s for s in sites if s.grain == "network"), *blocks_of(sites, "JiT")]

    def start(self) -> dict[str, Any]:
        return {}

    def density(self, clock: Clock) -> float:
        """The share of active tokens at this step."""
        return next((d for e, d in zip(self.ends, self.densities) if clock.step < e * clock.steps), 1.0)

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        name, x = next((k, v) for k, v in streams.items() if isinstance(v, Tensor))
        if site.grain == "network":
            return self._network(clock, name, streams, run, memory)
        if memory["density"] == 1:
            return run(streams)
        if site.index == 0:
            memory["tokens"] = x.shape[1]
            memory.setdefault("active", _active(memory, x.new_zeros(x.shape[:2])))
            streams = {**streams, name: pick(x, memory["active"])}
        out = narrowed(run, memory["active"], memory["tokens"])(streams)
        if site.index == site.count - 1:  # passive tokens may be anything here: their answer is lifted below
            out = {**out, name: put(out[name].new_zeros(len(x), memory["tokens"], x.shape[2]), memory["active"], out[name])}
        return out

    def _network(self, clock: Clock, name: str, streams: Streams, run: Call, memory: dict) -> Streams:
        x, density = streams[name], self.density(clock)
        if memory.get("shape") != list(x.shape[1:]) or len(memory.get("active", x)) != len(x):
            memory.clear()
        memory.update(shape=list(x.shape[1:]), density=density)
        note(run, clock, "jit", memory, {"evaluations": 1, "evaluations_sparse": int(density < 1)})
        if density == 1 and "active" not in memory:
            return run(streams)
        t = torch.as_tensor(clock.t, device=x.device).to(x.dtype)
        if "active" in memory:
            n = memory["tokens"]
            told = t.reshape(-1, 1, 1) if t.ndim < 2 else as_tokens(t.expand_as(x), n)
            if memory["active"].shape[1] < _count(memory):
                self._join(as_tokens(x, n), told, memory)
            streams = {**streams, name: as_answer(as_tokens(x, n) - memory["gap"] * told, x.shape)}
        said = run(streams)
        out, answer = next((k, v) for k, v in said.items() if isinstance(v, Tensor))
        if x.shape != answer.shape:
            raise OrnsteinError(f"JiT cannot tell x0 from an answer of shape {list(answer.shape)} for {list(x.shape)}",
                                "It needs a network that says the velocity, or x0, alone.")  # fmt: skip
        told = t.reshape(-1, 1, 1) if t.ndim < 2 else as_tokens(t.expand_as(x), memory["tokens"])
        return {**said, out: self._lift(as_tokens(streams[name], memory["tokens"]), told, answer, memory)}

    def _lift(self, y: Tensor, t: Tensor, answer: Tensor, memory: dict) -> Tensor:
        """What all tokens are told: active ones what was computed, passive ones what their neighbours say."""
        n, active, velocity = memory["tokens"], memory["active"], self.predicts == "velocity"
        said, (rows, columns, _) = as_tokens(answer, n), grid_of(n, answer.shape)
        if memory["density"] < 1:
            clean = pick(y - t * said if velocity else said, active)
            memory["clean"] = lift(clean, active, rows, columns)
            said = lift(pick(said, active), active, rows, columns)
            memory["variance"] = _variance(said, rows, columns)
            if "eps" not in memory:
                memory["eps"], memory["gap"] = (y - (1 - t) * memory["clean"]) / t.clamp_min(1e-6), torch.zeros_like(y)
        return as_answer(said + memory["gap"] if velocity else said, answer.shape)

    def _join(self, y: Tensor, t: Tensor, memory: dict) -> None:
        """More tokens become active, at y* = (1 - t) Phi(x0) + t eps: the network is shown y - gap t from now on."""
        old, relax = memory["active"], 3.0 if self.faithful else 1.0
        memory["active"] = _active(memory, memory["variance"].scatter(1, old, torch.inf))
        aim = (1 - t) * memory["clean"] + t * memory["eps"]
        gap = (y - aim) / (relax * t.clamp_min(1e-6))
        new = torch.zeros_like(y[..., 0]).scatter(1, memory["active"], 1).scatter(1, old, 0)
        memory["gap"] = torch.where(new[..., None] > 0, gap, memory["gap"])


def _count(memory: dict) -> int:
    tokens = memory["tokens"]
    return max(1, round(memory["density"] * tokens))


def _active(memory: dict, rank: Tensor) -> Tensor:
    """The tokens of the highest rank [B, N]; where all are alike every second one of every second row, then the rim, then a
    fixed pattern."""
    tokens = rank.shape[1]
    rows, columns, _ = grid_of(tokens, (1, *memory["shape"]))
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    rim = (row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1)
    first = 4.0 * ((row % 2 == 0) & (column % 2 == 0)) + 2.0 * rim
    first = first.flatten() + torch.arange(tokens) * 0.6180339887 % 1
    return best(rank + first.to(rank.device) * (1e-6 if "variance" in memory else 1), _count(memory))


def _variance(said: Tensor, rows: int, columns: int) -> Tensor:
    """The variance within 3x3 tokens, mean over the entries [B, N]."""
    field = F.pad(said.mT.unflatten(2, (rows, columns)).float(), (1, 1, 1, 1), "replicate")
    spread = F.avg_pool2d(field**2, 3, 1) - F.avg_pool2d(field, 3, 1) ** 2
    return spread.mean(1).flatten(1)
