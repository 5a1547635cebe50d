"""UNet: residual convolutions at falling and rising resolution, joined by skips, modulated by time and condition.

Denoising Diffusion Probabilistic Models, Ho, Jain, Abbeel, 2020, arXiv:2006.11239, in the form of Diffusion Models Beat
GANs on Image Synthesis, Dhariwal, Nichol, 2021, arXiv:2105.05233 (ADM): conv(SiLU(norm(h) (1 + scale) + shift)) in each
residual block, attention at chosen levels, zero output layers. Text enters by cross-attention (Rombach et al., 2022,
arXiv:2112.10752). A level of C channels costs about 9 C^2 (2 blocks + 3 (blocks + 1)) multiplications per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.backbones.layers.embed import Condition, TimeEmbedding, check_size, null_condition
from ornstein.backbones.layers.stages import Down, Look, Middle, Up, group_norm, zeroed
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Output

__all__ = ["UNet"]


class UNet(nn.Module):
    """x [B, C, H, W], t [B] -> [B, C, H, W]. cond: 'label' [B]; 'tokens' [B, L, text_dim], 'mask' [B, L], 'pooled'."""

    def __init__(self, channels: int = 4, width: int = 64, multipliers: Sequence[int] = (1, 2, 4), blocks: int = 1,
                 attention_levels: Sequence[int] | None = None, classes: int = 0, text_dim: int = 0,
                 heads: int = 4) -> None:  # fmt: skip
        """attention_levels: 0 is the outermost; by default all but that one. The middle always has attention."""
        super().__init__()
        attention_levels = range(1, len(multipliers)) if attention_levels is None else attention_levels
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
        self.norm, self.head = group_norm(widths[0]), zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))

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
