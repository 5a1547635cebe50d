"""Token merging: attention over fewer tokens, the most alike being averaged before it and given the same answer after it.

Token Merging for Fast Stable Diffusion, Bolya, Hoffman, 2023, arXiv:2303.17604, after Token Merging: Your ViT But Faster,
Bolya et al., 2022, arXiv:2210.09461. One token of each stride x stride cell is a destination, the others are sources; each
source goes to the destination of the highest cosine similarity, and the r = ratio N sources of the highest are merged
into theirs by the mean. The branch F runs on the N - r tokens that are left, and unmerging copies: F(x)_i = F(merge x)_{m(i)}.
Cost: the branch at N - r tokens, the matching N^2 / stride^2 products of width D, one gather and two scatters per branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.tokens import narrowed, pick
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["ToMe"]

ROLES = ("attention", "mlp")


@dataclass(frozen=True)
class ToMe:
    """Each sample has its own matches; all of a batch merge the same number."""

    ratio: float = 0.5  # share of the tokens that is merged away, at most 1 - 1 / stride^2 (the paper: 0.5); 0: none
    stride: int = 2  # side of the cells that keep one destination (the paper: 2)
    least: int = 16  # tokens below which a branch stays whole (the paper merges at the highest resolution only)
    columns: int = 0  # tokens in a row of the image; 0: the square root, or plain runs of stride^2 where it is not whole
    roles: tuple[str, ...] = ("attention",)  # of the branches that run merged (the paper: attention; mlp is an option)
    window: tuple[float, float] = (0.0, 1.0)  # times within which tokens are merged (the paper: all)
    wander: bool = True  # the destination's place in its cell changes with cell and step, else it is the first
    effects: ClassVar[Effects] = Effects.of(replaces="tokens")

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1 - self.stride**-2 or self.stride < 2 or not set(self.roles) <= set(ROLES):
            raise OrnsteinError(f"{self}", "ratio is 0 to 1 - 1 / stride^2, stride at least 2, roles of attention, mlp.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "branch" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        name, x = next((k, v) for k, v in streams.items() if isinstance(v, Tensor))
        tokens = x.shape[1] if x.ndim == 3 else 0
        gone = int(self.ratio * tokens)
        rows = self._inside(clock, len(x))
        if not gone or tokens < self.least or (rows is not None and not rows.any()):
            note(run, clock, "tome", memory, {"branches": 1})
            return run(streams)
        if not self._known(site, x, memory):
            memory.clear()
            memory.update(self._match(x, clock.step, gone), depth=site.depth)
        left = pick(x, memory["left"])
        into = memory["into"][..., None].expand(-1, -1, x.shape[2])
        left = left.scatter_reduce(1, into, pick(x, memory["merged"]), "mean")  # each destination with its sources
        merged, where = {**streams, name: left}, memory["where"]
        call = narrowed(run, memory["left"], tokens)
        note(run, clock, "tome", memory, {"branches": 1, "branches_merged": 1})
        if rows is None:
            out = call(merged)
            first = next(iter(out))  # what else a joint attention answers is of the text
            return {**out, first: pick(out[first], where)}
        out, inside = run(streams, (~rows).nonzero()[:, 0]), call(merged, rows.nonzero()[:, 0])
        first = next(iter(out))
        inside = {**inside, first: pick(inside[first], where[rows])}
        whole = {k: v.new_zeros(len(x), *v.shape[1:]).index_copy(0, (~rows).nonzero()[:, 0], v) for k, v in out.items()}
        return {k: v.index_copy(0, rows.nonzero()[:, 0], inside[k]) for k, v in whole.items()}

    def _inside(self, clock: Clock, batch: int) -> Tensor | None:
        """Which rows [B] stand within the window; None: all."""
        if self.window[0] <= 0 and self.window[1] >= 1:
            return None
        t = torch.as_tensor(clock.t)
        t = (t.flatten(1).mean(1) if t.ndim > 1 else t).expand(batch)
        rows = (t >= self.window[0]) & (t <= self.window[1])
        return None if bool(rows.all()) else rows

    def _known(self, site: Site, x: Tensor, memory: dict) -> bool:
        """Whether the mlp may use what its block's attention found."""
        return (site.role == "mlp" and "attention" in self.roles and memory.get("depth") == site.depth
                and memory["where"].shape == x.shape[:2])  # fmt: skip

    def _match(self, x: Tensor, step: int, gone: int) -> dict[str, Tensor]:
        """left [B, N - r]: tokens that stay, destinations last; merged [B, r] and the places in `left` that they go into
        [B, r]; where [B, N]: the place in `left` that answers for each token."""
        batch, tokens = x.shape[:2]
        targets, sources = (i.to(x.device) for i in self._split(tokens, step))
        unit = x / x.norm(dim=2, keepdim=True).clamp_min(1e-6)
        nearness, nearest = (unit[:, sources] @ unit[:, targets].mT).max(2)
        order = nearness.argsort(1, descending=True)
        merged, kept = sources[order[:, :gone]], sources[order[:, gone:].sort(1).values]
        into = nearest.gather(1, order[:, :gone]) + kept.shape[1]
        left = torch.cat([kept, targets.expand(batch, -1)], 1)
        places = torch.arange(left.shape[1], device=x.device).expand(batch, -1)
        where = torch.zeros(batch, tokens, dtype=torch.long, device=x.device)
        where = where.scatter(1, left, places).scatter(1, merged, into)
        return {"left": left, "merged": merged, "into": into, "where": where}

    def _split(self, tokens: int, step: int) -> tuple[Tensor, Tensor]:
        """Destinations, one in each cell, and sources: the same for all samples."""
        side, columns = self.stride, self.columns or math.isqrt(tokens)
        place = torch.arange(tokens)
        if tokens % columns or (not self.columns and columns * columns != tokens):
            cell, corner = place // side**2, place % side**2
        else:
            row, column = place // columns, place % columns
            cell, corner = row // side * columns + column // side, row % side * side + column % side
        if self.wander:  # a hash of cell and step, so that nothing is drawn
            corner = (corner + ((cell + 1) * 40503 + step * 30011 >> 7)) % side**2
        size = torch.zeros(int(cell.max()) + 1, dtype=torch.long).index_add(0, cell, torch.ones_like(cell))
        first = torch.full_like(size, side**2).scatter_reduce(0, cell, corner, "amin")
        target = corner == first[cell]  # cells at the rim may lack corners: the lowest that is there
        return target.nonzero()[:, 0], (~target).nonzero()[:, 0]
