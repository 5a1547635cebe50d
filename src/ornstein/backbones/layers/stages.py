"""The stages of a U-Net and what they are made of. Each stage is a seat of the seam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.backbones.layers.attention import Attention, CrossAttention
from ornstein.core.sites import Seat

__all__ = ["Down", "Look", "Middle", "Residual", "Up", "group_norm", "zeroed"]


class Residual(nn.Module):
    """x [B, I, H, W], c [B, E] -> [B, O, H, W]: two convolutions, the second modulated by c and zero at the start."""

    def __init__(self, inner: int, outer: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outer)
        self.norm2, self.conv2 = group_norm(outer), zeroed(nn.Conv2d(outer, outer, 3, padding=1))
        self.skip = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


class Look(nn.Module):
    """Pixels [B, C, H, W] look at one another and, where there is text [B, L, C'], at the text."""

    def __init__(self, width: int, heads: int, text: int) -> None:
        super().__init__()
        self.norm, self.attn = group_norm(width), Attention(width, heads)
        self.read = nn.Linear(text, width) if text else None  # the text at this level's width
        self.norm_text, self.cross = (nn.LayerNorm(width), CrossAttention(width, heads)) if text else (None, None)
        for part in (self.attn, self.cross):
            if part is not None:
                zeroed(part.out)

    def forward(self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = x.flatten(2).mT
        h = h + self.attn(self.norm(x).flatten(2).mT)
        if self.cross is not None:
            h = h + self.cross(self.norm_text(h), self.read(text), mask)
        return h.mT.reshape(x.shape)


class Down(nn.Module):
    """One level on the way down: (x at the next resolution, skips: the input and what each block made of it)."""

    seat: ClassVar[Seat] = Seat("stage", "down", ("x", "skips"))

    def __init__(self, widths: Sequence[int], embedding: int, looks: Sequence[nn.Module], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(a, b, embedding) for a, b in zip(widths, widths[1:]))
        self.looks = nn.ModuleList(looks)
        self.shrink = None if last else nn.Conv2d(widths[-1], widths[-1], 3, stride=2, padding=1)

    def forward(self, x: Tensor, c: Tensor, text: Tensor | None = None,
                mask: Tensor | None = None) -> tuple[Tensor, tuple]:  # fmt: skip
        skips = (x,)
        for index, block in enumerate(self.blocks):
            x = block(x, c)
            x = self.looks[index](x, text, mask) if self.looks else x
            skips = (*skips, x)
        return (x if self.shrink is None else self.shrink(x)), skips


class Middle(nn.Module):
    """Two blocks with attention between, at the lowest resolution."""

    seat: ClassVar[Seat] = Seat("stage", "mid", ("x",))

    def __init__(self, width: int, embedding: int, look: nn.Module) -> None:
        super().__init__()
        self.first, self.look, self.second = Residual(width, width, embedding), look, Residual(width, width, embedding)

    def forward(self, x: Tensor, c: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.second(self.look(self.first(x, c), text, mask), c)


class Up(nn.Module):
    """One level on the way up: takes the skips of its own level, last first, and hands x on at twice the resolution."""

    seat: ClassVar[Seat] = Seat("stage", "up", ("x",))

    def __init__(self, width: int, below: int, skips: Sequence[int], embedding: int,
                 looks: Sequence[nn.Module], first: bool) -> None:  # fmt: skip
        super().__init__()
        inner = [below, *[width] * (len(skips) - 1)]
        self.blocks = nn.ModuleList(Residual(a + s, width, embedding) for a, s in zip(inner, skips))
        self.looks = nn.ModuleList(looks)
        self.grow = None if first else nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, skips: tuple, c: Tensor, text: Tensor | None = None,
                mask: Tensor | None = None) -> Tensor:  # fmt: skip
        for index, block in enumerate(self.blocks):
            x = block(torch.cat([x, skips[-1 - index]], 1), c)
            x = self.looks[index](x, text, mask) if self.looks else x
        return x if self.grow is None else self.grow(F.interpolate(x, scale_factor=2.0))


def group_norm(width: int) -> nn.GroupNorm:
    """Groups of at least four channels, at most 32 groups."""
    return nn.GroupNorm(next(g for g in range(min(32, max(1, width // 4)), 0, -1) if width % g == 0), width, 1e-5)


def zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
