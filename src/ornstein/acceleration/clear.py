"""CLEAR: tokens of the image attend to a round window about their place, and to all tokens of text.

CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up, Songhua Liu, Zhenxiong Tan, Xinchao Wang, 2024,
arXiv:2412.16112. With places (y, x) on the grid of tokens and a radius r,

    key k is seen by query q   <=>   q is text, or k is text, or (y_q - y_k)^2 + (x_q - x_k)^2 < r^2,

so that attention costs N (pi r^2 + n_text) pairs instead of N^2. With `pool` the keys and values are also averaged over
cells of pool x pool tokens, and every query of the image sees all of these: what lies far, coarsely. The paper then trains
the projections of q, k, v and the output against the frozen host: `distil` of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.distil import Recipe, distil
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.windows import Layout, layout, pairs, plain, raster, tiled, visible
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["CLEAR", "Recipe", "distil"]


@dataclass(frozen=True)
class CLEAR:
    """For self-attention over tokens in raster order, alone or joined by text; masked or causal attention is refused."""

    radius: float = 8.0  # r in tokens of the site's own grid (the paper: 8, 16, 32); 0 or inf: off
    text: int = 0  # tokens of text joined to the image's: so many first ones, or last ones where negative
    pool: int = 0  # side of the cells that are seen from everywhere (the paper: 4); 0: none
    aspect: float = 1.0  # columns over rows of the image
    warmup: int = 0  # evaluations that stay full, anew after a change of shape; for use without training
    roles: tuple[str, ...] = ("attention",)  # of the attentions to make local
    effects: ClassVar[Effects] = Effects.of(replaces="attention tokens")

    def __post_init__(self) -> None:
        if not self.radius >= 0 or self.warmup < 0 or self.pool < 0 or self.aspect <= 0:
            raise OrnsteinError(f"{self}", "radius, pool and warmup are not negative; aspect is above 0.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "attention" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        return {"calls": {}, "seen": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if not 0 < self.radius < float("inf"):
            return run(streams)
        plain("CLEAR", site, streams, run)
        q, k, v = (streams[n] for n in "qkv")
        rows, columns = raster(site, q.shape[2] - abs(self.text), self.aspect)
        shape, calls = memory["calls"].get(site.name, (None, 0))
        calls = calls if shape == tuple(q.shape) else 0
        memory["calls"][site.name] = tuple(q.shape), calls + 1
        wide = (rows - 1) ** 2 + (columns - 1) ** 2 < self.radius**2  # every window holds the whole image
        if calls < self.warmup or wide:
            note(run, clock, "clear", memory["seen"], {"attentions": 1})
            return run(streams)
        plan, key = layout(rows, columns, self.radius), (rows, columns, str(q.device))
        if key not in memory["seen"]:
            memory["seen"][key] = visible(plan, self.radius).to(q.device)
        seen, scale = memory["seen"][key], run.bound.get("scale")
        image, texts = self._parts(q.shape[2])
        k_image, v_image = k[:, :, image], v[:, :, image]
        extra = [(k[:, :, texts], v[:, :, texts])] if self.text else []
        extra += [(_pooled(k_image, rows, columns, self.pool), _pooled(v_image, rows, columns, self.pool))] if self.pool else []
        joined = tuple(torch.cat(x, 2) for x in zip(*extra)) if extra else None
        out = tiled(q[:, :, image], k_image, v_image, plan, seen, joined, scale)
        if self.text:  # the text's queries see all
            said = F.scaled_dot_product_attention(q[:, :, texts], k, v, scale=scale)
            out = torch.cat([said, out] if self.text > 0 else [out, said], 2)
        self._count(site, clock, run, memory, plan, 0 if joined is None else joined[0].shape[2])
        return {"out": out}

    def _parts(self, tokens: int) -> tuple[slice, slice]:
        """Where the image is, and where the text."""
        if self.text >= 0:
            return slice(self.text, None), slice(0, self.text)
        return slice(0, tokens + self.text), slice(tokens + self.text, None)

    def _count(self, site: Site, clock: Clock, run: Call, memory: dict, plan: Layout, extra: int) -> None:
        """The record counts the pairs that are seen; facts have those that the kernel looks at, too."""
        image, text = plan.rows * plan.columns, abs(self.text)
        total, others = (image + text) ** 2, image * extra + text * (image + text)
        seen = pairs(plan.rows, plan.columns, self.radius) + others
        run.run.record.computed(site, replace(clock, share=clock.share * min(1.0, seen / total)))
        note(run, clock, "clear", memory["seen"], {"attentions": 1, "attentions_local": 1, "pairs": total, "pairs_seen": seen,
                                                   "pairs_computed": image * plan.halo + others})  # fmt: skip


def _pooled(x: Tensor, rows: int, columns: int, cell: int) -> Tensor:
    """[B, H, N, d] -> [B, H, n, d]: means of cells; those at the rim may be smaller."""
    grid = x.mT.unflatten(3, (rows, columns)).flatten(0, 1)
    return F.avg_pool2d(grid, cell, ceil_mode=True).flatten(2).mT.unflatten(0, x.shape[:2])
