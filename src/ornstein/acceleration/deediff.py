"""DeeDiff: each sample leaves the network after the first block that is certain of the answer.

DeeDiff: Dynamic Uncertainty-Aware Early Exiting for Accelerating Diffusion Model Generation, Tang, Wang, Ding, Liang, Li,
Xu, 2023, arXiv:2309.17074. Behind block i, u_i = sigmoid(w_i [h_i, time] + b_i) foretells tanh|eps_i - eps|, the error of
leaving here; a sample with u_i < tau takes h_i + A_i(time) h_i + a_i as what the last block would have said, and the network's
own last layer reads it. recipes/train_deediff learns both, with the network frozen. Without them u_i = tanh of what the block
changed, relatively, and h_i leaves as it is. Cost: the blocks up to the exit, D^2 per token to leave and D to ask; nothing is
stored but where each sample left, and every block waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.forecast import place
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead, pick, put, relative, trunk
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["DeeDiff", "hats", "leave", "uncertainty"]

INSIDE = 1 << 30  # where a sample left that has not


@dataclass(frozen=True)
class DeeDiff:
    """Decides for each sample by itself; those that are still inside are computed together, without the others."""

    threshold: float = 0.1  # tau: a sample leaves where its uncertainty, in [0, 1], is below; 0: never
    heads: str | Path | Artefact = ""  # what was learned: of each block but the last
    always: int = -1  # leave after this block, whatever the uncertainty says; -1: by the uncertainty
    arrays: Mapping[str, Tensor] = field(init=False, repr=False, compare=False)
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OrnsteinError(f"DeeDiff(threshold={self.threshold})", "It is an uncertainty between 0 and 1.")
        found = Artefact.load(self.heads, "deediff") if self.heads and not isinstance(self.heads, Artefact) else self.heads
        object.__setattr__(self, "arrays", found.arrays if found else {})

    def select(self, sites: Sequence[Site]) -> list[Site]:
        blocks = trunk(sites, "DeeDiff")
        if self.arrays and len(blocks) != len(self.arrays["out"]) + 1:
            raise OrnsteinError(f"these heads are of {len(self.arrays['out']) + 1} blocks, which does not fit {len(blocks)} here",
                                "Train them on this network with recipes/train_deediff.")  # fmt: skip
        return blocks

    def start(self) -> dict[str, Any]:
        return {"left": None, "block": 0}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.threshold == 0 and self.always < 0:
            return run(streams)
        batch = len(lead(streams))
        if site.name == memory.setdefault("first", site.name):
            memory["left"], memory["block"] = torch.full((batch,), INSIDE, device=lead(streams).device), 0
            note(run, clock, "deediff", memory, {"samples": batch})
        rows = (memory["left"] == INSIDE).nonzero()[:, 0]
        memory["block"] += 1
        if not len(rows):
            return streams
        part = run(streams) if len(rows) == batch else run(streams, rows)
        block, name = memory["block"] - 1, next(k for k, v in streams.items() if isinstance(v, Tensor))
        if not self.arrays or block < len(self.arrays["out"]):
            t, before = place(clock, lead(streams))[rows], streams[name][rows]
            goes = self._certain(block, before, part[name], t).nonzero()[:, 0]
            if len(goes):
                memory["left"] = memory["left"].index_fill(0, rows[goes], block)
                note(run, clock, "deediff", memory, {"exits": len(goes)})
                if self.arrays:
                    part = put(part, goes, {name: leave(self.arrays, block, part[name][goes], t[goes])} | {
                        k: v for k, v in pick(part, goes).items() if k != name})  # fmt: skip
        return part if len(rows) == batch else put(streams, rows, part)

    def _certain(self, block: int, before: Tensor, h: Tensor, t: Tensor) -> Tensor:
        """Which rows leave after this block, bool [B]."""
        if self.always >= 0:
            return torch.full((len(h),), block == self.always, device=h.device)
        u = uncertainty(self.arrays, block, h, t) if self.arrays else relative(h, before).tanh()
        return u < self.threshold


def hats(t: Tensor, knots: Tensor) -> Tensor:
    """Weights [B, M] of linear interpolation at t [B] between ascending knots [M], constant beyond them."""
    t, knots = t.float(), knots.to(t.device).float()
    i = torch.searchsorted(knots, t).clamp(1, len(knots) - 1)
    part = ((t - knots[i - 1]) / (knots[i] - knots[i - 1])).clamp(0, 1)[:, None]
    one = torch.eye(len(knots), device=t.device)
    return one[i - 1] * (1 - part) + one[i] * part


def uncertainty(arrays: Mapping[str, Tensor], block: int, h: Tensor, t: Tensor) -> Tensor:
    """u [B] of h [B, N, D] (or more axes of tokens) behind a block: arrays 'doubt' [L - 1, D + M]."""
    mean = F.layer_norm(h.float(), h.shape[-1:]).flatten(1, -2).mean(1)
    return (torch.cat([mean, hats(t, arrays["knots"])], 1) @ arrays["doubt"][block].to(h.device)).sigmoid()


def leave(arrays: Mapping[str, Tensor], block: int, h: Tensor, t: Tensor) -> Tensor:
    """What the last block would say, from h [B, N, D] behind `block`: arrays 'out' [L - 1, M, D + 1, D]."""
    own = torch.einsum("bm,mij->bij", hats(t, arrays["knots"]), arrays["out"][block].to(h.device))
    tokens = h.float().flatten(1, -2)
    return (tokens + tokens @ own[:, :-1] + own[:, -1:]).view(h.shape).to(h.dtype)
