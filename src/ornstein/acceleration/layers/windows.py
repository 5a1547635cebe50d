"""Attention to what lies near in the image: round windows over tokens in raster order, tile by tile.

A tile of t x t queries takes the keys of its (t + 2R) x (t + 2R) halo, R the furthest offset that a window reaches, and
a mask cuts the halo to each query's own disc. One fused kernel does all tiles; no N x N scores are made anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Layout", "layout", "pairs", "plain", "raster", "tiled", "visible"]

COPY = 16  # what copying a key costs, in keys looked at: measured on a CPU, it decides the side of a tile
TILES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Layout:
    """rows x columns tokens, windows that reach `reach` tokens, tiles of side `tile` (0: one mask over all pairs)."""

    rows: int
    columns: int
    reach: int
    tile: int

    @property
    def halo(self) -> int:
        """Keys that the kernel looks at for each query."""
        return (self.tile + 2 * self.reach) ** 2 if self.tile else self.rows * self.columns

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.rows // self.tile), -(-self.columns // self.tile)


def raster(site: Site, tokens: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of so many tokens of an image whose columns are `aspect` times its rows."""
    columns = max(1, round(math.sqrt(max(tokens, 1) * aspect)))
    if tokens < 1 or tokens % columns or abs(columns * columns / tokens / aspect - 1) > 0.1:
        raise OrnsteinError(f"the {tokens} tokens at '{site.name}' do not lie in rows and columns of aspect {aspect:g}",
                            "Give aspect=columns / rows of the image, and text=tokens of text that are joined to it.")  # fmt: skip
    return tokens // columns, columns


def plain(name: str, site: Site, streams: Streams, run: Call) -> None:
    """Refuse what is not plain self-attention over tokens of one image."""
    odd = [n for n in ("is_causal", "enable_gqa", "dropout_p") if run.bound.get(n)]
    odd += ["another part that asks for its log-sum-exp"] if "lse" in streams else []
    odd += ["a mask"] if streams.get("mask") is not None else []
    odd += ["fewer keys than queries, or more"] if streams["q"].shape[2] != streams["k"].shape[2] else []
    if odd:
        raise OrnsteinError(f"{name} does not fit the attention at '{site.name}': it has {', '.join(odd)}",
                            "It is for plain self-attention; choose other sites by roles.")  # fmt: skip


def layout(rows: int, columns: int, radius: float) -> Layout:
    """The tile of the least work, or one mask where tiles do not pay."""
    reach = math.ceil(radius) - 1  # the window is open: dy^2 + dx^2 < r^2
    work = {t: (t + 2 * reach) ** 2 * (1 + COPY / t**2) for t in TILES}
    tile = min(work, key=work.get)
    return Layout(rows, columns, reach, tile if work[tile] < rows * columns else 0)


@lru_cache(maxsize=64)
def pairs(rows: int, columns: int, radius: float) -> int:
    """Pairs (query, key) inside the windows of an image."""
    dy, dx = torch.arange(1 - rows, rows)[:, None], torch.arange(1 - columns, columns)
    return int(((rows - dy.abs()) * (columns - dx.abs()) * (dy**2 + dx**2 < radius**2)).sum())


def visible(plan: Layout, radius: float) -> Tensor:
    """bool [1, N, N] without tiles, [1, tiles, t^2, halo] with them: which keys a query sees. Queries of the padding
    see all. The first axis keeps it apart from what belongs to samples."""
    if not plan.tile:
        place = torch.cartesian_prod(torch.arange(plan.rows), torch.arange(plan.columns))
        return ((place[:, None] - place) ** 2).sum(-1)[None] < radius**2
    (down, across), t = plan.tiles, plan.tile

    def axis(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        q = torch.arange(count * t).view(count, t, 1)
        k = torch.arange(count).view(count, 1, 1) * t + torch.arange(t + 2 * plan.reach) - plan.reach
        return (q - k) ** 2, (k >= 0) & (k < size), q >= size

    (dy, in_y, out_y), (dx, in_x, out_x) = axis(down, plan.rows), axis(across, plan.columns)
    y, x = (slice(None), None, slice(None), None, slice(None), None), (None, slice(None), None, slice(None), None, slice(None))
    seen = (dy[y] + dx[x] < radius**2) & in_y[y] & in_x[x] | out_y[y] | out_x[x]
    return seen.reshape(1, down * across, t * t, plan.halo)


def tiled(q: Tensor, k: Tensor, v: Tensor, plan: Layout, seen: Tensor, extra: tuple[Tensor, Tensor] | None = None,
          scale: float | None = None) -> Tensor:  # fmt: skip
    """Attention [B, H, N, d] inside the windows. extra: keys and values [B, H, n, d] that every query sees too."""
    more = 0 if extra is None else extra[0].shape[2]
    seen = F.pad(seen, (0, more), value=True)
    if not plan.tile:
        k, v = (k, v) if extra is None else (torch.cat(pair, 2) for pair in zip((k, v), extra))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    (down, across), t, r = plan.tiles, plan.tile, plan.reach
    short = (0, across * t - plan.columns, 0, down * t - plan.rows)

    def image(x: Tensor, left: int) -> Tensor:
        x = x.unflatten(2, (plan.rows, plan.columns)).flatten(0, 1)
        return F.pad(x, (0, 0, left, left + short[1], left, left + short[3]))

    def tiles(x: Tensor, size: int) -> Tensor:
        return x.unfold(1, size, t).unfold(2, size, t).permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(1, 2)

    keys, values = (tiles(image(x, r), t + 2 * r) for x in (k, v))
    if extra is not None:
        keys, values = (torch.cat([x, e.flatten(0, 1)[:, None].expand(-1, x.shape[1], -1, -1)], 2)
                        for x, e in zip((keys, values), extra))  # fmt: skip
    out = F.scaled_dot_product_attention(tiles(image(q, 0), t), keys, values, attn_mask=seen, scale=scale)
    out = out.unflatten(1, (down, across)).unflatten(3, (t, t)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return out[:, : plan.rows, : plan.columns].flatten(1, 2).unflatten(0, q.shape[:2])
