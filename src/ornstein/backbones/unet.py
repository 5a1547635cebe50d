"""UNet: residual convolutions at falling and rising resolution, joined by skips, modulated by time and condition.

Denoising Diffusion Probabilistic Models, Ho, Jain, Abbeel, 2020, arXiv:2006.11239, in the form of Diffusion Models Beat
GANs on Image Synthesis, Dhariwal, Nichol, 2021, arXiv:2105.05233 (ADM): conv(SiLU(norm(h) (1 + scale) + shift)) in each
residual block, attention at chosen levels, zero output layers. Text enters by cross-attention (Rombach et al., 2022,
arXiv:2112.10752). A level of C channels costs about 9 C^2 (2 blocks + 3 (blocks + 1)) multiplications per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.backbones.layers.attention import Attention, CrossAttention
from ornstein.backbones.layers.embed import Condition, TimeEmbedding, check_size, null_condition
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Output
from ornstein.core.sites import Seat

__all__ = ["UNet", "Down", "Look", "Middle", "Residual", "Up"]


class Residual(nn.Module):
    """x [B, I, H, W], c [B, E] -> [B, O, H, W]: two convolutions, the second modulated by c and zero at the start."""

    def __init__(self, inner: int, outer: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outer)
        self.norm2, self.conv2 = _norm(outer), _zero(nn.Conv2d(outer, outer, 3, padding=1))
        self.skip = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


class Look(nn.Module):
    """Pixels [B, C, H, W] look at one another and, where there is text [B, L, C'], at the text."""

    def __init__(self, width: int, heads: int, text: int) -> None:
        super().__init__()
        self.norm, self.attn = _norm(width), Attention(width, heads)
        self.read = nn.Linear(text, width) if text else None  # the text at this level's width
        self.norm_text, self.cross = (nn.LayerNorm(width), CrossAttention(width, heads)) if text else (None, None)
        for part in (self.attn, self.cross):
            if part is not None:
                _zero(part.out)

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


class UNet(nn.Module):
    """x [B, C, H, W], t [B] -> [B, C, H, W]. cond: 'label' [B]; 'tokens' [B, L, text_dim], 'mask' [B, L], 'pooled'."""

    def __init__(self, channels: int = 4, width: int = 64, multipliers: Sequence[int] = (1, 2, 4), blocks: int = 1,
                 attention_levels: Sequence[int] = (1, 2), classes: int = 0, text_dim: int = 0,
                 heads: int = 4) -> None:  # fmt: skip
        super().__init__()
        if any((width * m) % (4 * heads) for m in multipliers):
            raise OrnsteinError(f"UNet of widths {[width * m for m in multipliers]} with {heads} heads",
                                f"Each width must be a multiple of {4 * heads}.")  # fmt: skip
        if not set(attention_levels) <= set(range(len(multipliers))):
            raise OrnsteinError(f"attention at levels {tuple(attention_levels)}",
                                f"The levels are 0 to {len(multipliers) - 1}.")  # fmt: skip
        self.channels, self.width, self.classes, self.text_dim = channels, width, classes, text_dim
        self.multiple = 2 ** (len(multipliers) - 1)
        embedding, widths = 4 * width, [width * m for m in multipliers]
        self.time, self.condition = TimeEmbedding(embedding), Condition(embedding, classes, text_dim)
        self.embed = nn.Conv2d(channels, width, 3, padding=1)
        text = embedding if text_dim else 0
        looks = [[Look(w, heads, text) for _ in range(n)] if level in attention_levels else []
                 for n in (blocks, blocks + 1) for level, w in enumerate(widths)]  # fmt: skip
        inner, top = [width, *widths[:-1]], len(widths) - 1
        self.down = nn.ModuleList(Down([i, *[w] * blocks], embedding, looks[level], level == top)
                                  for level, (i, w) in enumerate(zip(inner, widths)))  # fmt: skip
        self.mid = Middle(widths[-1], embedding, Look(widths[-1], heads, text))
        self.up = nn.ModuleList(Up(widths[k], widths[min(k + 1, top)], [*[widths[k]] * blocks, inner[k]], embedding,
                                   looks[top + 1 + k], k == 0) for k in range(top, -1, -1))  # fmt: skip
        self.norm, self.head = _norm(widths[0]), _zero(nn.Conv2d(widths[0], channels, 3, padding=1))

    def null_condition(self, cond: dict | None, batch: int) -> dict[str, Tensor]:
        return null_condition(cond, batch, self.classes, self.text_dim)

    def context(self, t: Tensor, cond: dict | None, batch: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What every stage is told besides x: (modulation [B, E], text [B, L, E] or None, its mask or None)."""
        if t.shape != (batch,):
            raise OrnsteinError(f"UNet cannot take times of shape {tuple(t.shape)}",
                                f"It needs one per sample, [{batch}].")  # fmt: skip
        total, text, mask = self.condition(cond, batch)
        return F.silu(self.time(t) + total), text, mask

    def encode(self, x: Tensor, context: tuple) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """(the skips of each level from the outermost in, the state [B, C, h, w] after the middle)."""
        skips, h = [], self.embed(x.to(self.embed.weight.dtype))
        for stage in self.down:
            h, kept = stage(h, *context)
            skips.append(kept)
        return skips, self.mid(h, *context)

    def decode(self, mid: Tensor, skips: Sequence[tuple[Tensor, ...]], context: tuple,
               kept: dict | None = None) -> Tensor:  # fmt: skip
        """The answer [B, channels, H, W]. kept: takes the output of each stage by its name."""
        for index, stage in enumerate(self.up):
            mid = stage(mid, skips[-1 - index], *context)
            if kept is not None:
                kept[f"up.{index}"] = mid
        return self.head(F.silu(self.norm(mid)))

    def forward(self, x: Tensor, t: Tensor, cond: dict | None = None, taps: Sequence[str] = ()) -> Tensor | Output:
        check_size("UNet", x, self.channels, self.multiple)
        context = self.context(t, cond, len(x))
        skips, mid = self.encode(x, context)
        kept = {"mid": mid, **{f"down.{i}": s[-1] for i, s in enumerate(skips)}} if taps else None
        out = self.decode(mid, skips, context, kept)
        for name in taps:
            if name not in kept:
                raise unknown("tap", name, kept)
        return Output(out, {name: kept[name] for name in taps}) if taps else out


def _norm(width: int) -> nn.GroupNorm:
    """Groups of at least four channels, at most 32 groups."""
    return nn.GroupNorm(next(g for g in range(min(32, max(1, width // 4)), 0, -1) if width % g == 0), width, 1e-5)


def _zero(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

