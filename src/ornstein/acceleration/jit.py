"""JiT: start on a sparse grid of anchor tokens, lift what they say to all tokens, and let more tokens join stage by stage.

Just-in-Time: Training-Free Spatial Acceleration for Diffusion Transformers, 2026. On the active tokens Omega_k of stage k
u = model(y_Omega, t); everywhere else Phi, the nearest active token's value blurred. Published: V = Phi(u) for passive
tokens, which loses their noise, so that joining tokens must be set anew to y* = (1 - t) Phi(x0) + t eps. Here the estimate
x0 is lifted instead, V = (y - Phi(x0)) / t: each passive token keeps its own noise, stays at (1 - t) Phi + t eps on its
way, and joins as it is. New tokens: the highest 3x3 variance of the lifted answer. Cost: |Omega_k| / N of the blocks, in
attention less, from the first evaluation on; the active set is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.tokens import as_answer, as_tokens, best, blocks_of, grid_of, lift, narrowed, pick, put
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
    faithful: bool = False  # lift the velocity as published; without its jumps of y, which a plugin cannot make
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
            return self._network(clock, x, streams, run, memory)
        if memory["density"] == 1:
            return run(streams)
        if site.index == 0:
            memory["tokens"] = x.shape[1]
            memory["active"] = _active(memory, x, memory["density"])
            streams = {**streams, name: pick(x, memory["active"])}
        out = narrowed(run, memory["active"], memory["tokens"])(streams)
        if site.index == site.count - 1:  # passive tokens may be anything here: their answer is lifted below
            out = {**out, name: put(out[name].new_zeros(len(x), memory["tokens"], x.shape[2]), memory["active"], out[name])}
        return out

    def _network(self, clock: Clock, x: Tensor, streams: Streams, run: Call, memory: dict) -> Streams:
        density = self.density(clock)
        if memory.get("shape") != list(x.shape[1:]) or len(memory.get("active", x)) != len(x):
            memory.clear()
        memory.update(shape=list(x.shape[1:]), density=density)
        said = run(streams)
        if density == 1:
            note(run, clock, "jit", memory, {"evaluations": 1})
            return said
        name, answer = next((k, v) for k, v in said.items() if isinstance(v, Tensor))
        lifted = self._lift(clock, x, answer, memory)
        memory["variance"] = _variance(lifted, memory["tokens"])
        note(run, clock, "jit", memory, {"evaluations": 1, "evaluations_sparse": 1})
        return {**said, name: lifted}

    def _lift(self, clock: Clock, x: Tensor, answer: Tensor, memory: dict) -> Tensor:
        n, active = memory["tokens"], memory["active"]
        rows, columns, _ = grid_of(n, answer.shape)
        said = as_tokens(answer, n)
        if self.faithful or self.predicts == "x0":
            return as_answer(lift(pick(said, active), active, rows, columns), answer.shape)
        if x.shape != answer.shape:
            raise OrnsteinError(f"JiT cannot tell x0 from an answer of shape {list(answer.shape)} for {list(x.shape)}",
                                "Use faithful=True, or a network that says the velocity alone.")  # fmt: skip
        t = torch.as_tensor(clock.t, device=x.device).to(x.dtype)
        t = t.reshape(-1, 1, 1) if t.ndim < 2 else as_tokens(t.expand_as(x), n)
        y = as_tokens(x, n)
        clean = lift(pick(y - t * said, active), active, rows, columns)
        return as_answer(put((y - clean) / t.clamp_min(1e-6), active, pick(said, active)), answer.shape)


def _active(memory: dict, x: Tensor, density: float) -> Tensor:
    """The active tokens [B, n]: those that were, and the most important ones besides. At first every second token of every
    second row, then the rim, then a fixed pattern."""
    tokens, count = x.shape[1], max(1, round(density * x.shape[1]))
    known = memory.get("active")
    if known is not None and known.shape[1] >= count:
        return known
    if known is not None and "variance" in memory:
        return best(memory["variance"].scatter(1, known, torch.inf), count)
    rows, columns, _ = grid_of(tokens, (1, *memory["shape"]))
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    rank = 4.0 * ((row % 2 == 0) & (column % 2 == 0)) + 2.0 * ((row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1))
    rank = rank.flatten() + torch.arange(tokens) * 0.6180339887 % 1
    return best(rank.to(x.device).expand(len(x), -1), count)


def _variance(answer: Tensor, tokens: int) -> Tensor:
    """The variance within 3x3 tokens, mean over the entries [B, N]."""
    rows, columns, _ = grid_of(tokens, answer.shape)
    field = F.pad(as_tokens(answer, tokens).mT.unflatten(2, (rows, columns)).float(), (1, 1, 1, 1), "replicate")
    spread = F.avg_pool2d(field**2, 3, 1) - F.avg_pool2d(field, 3, 1) ** 2
    return spread.mean(1).flatten(1)
