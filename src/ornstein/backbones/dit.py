"""DiT: a transformer on patches, modulated by time and condition through adaLN-zero.

Scalable Diffusion Models with Transformers, Peebles, Xie, 2022, arXiv:2212.09748. Text enters by cross-attention as in
PixArt-alpha (Chen et al., 2023, arXiv:2310.00426), whose shared modulation ("adaLN-single") is an option. Positions are
2-D rotary (Su et al., 2021, arXiv:2104.09864; half of each head's pairs per axis) or fixed sines. Queries and keys are
normalised (Henry et al., 2020, arXiv:2010.04245). Per block of N tokens: 12 N D^2 multiplications, 16 N D^2 with text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.backbones.layers.attention import Attention, CrossAttention
from ornstein.backbones.layers.embed import Condition, TimeEmbedding, check_size, null_condition, sinusoid
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output
from ornstein.core.sites import Seat

__all__ = ["DiT", "Block", "Mlp"]


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between."""

    seat: ClassVar[Seat] = Seat("branch", "mlp")

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(nn.Linear(width, int(width * ratio)), nn.GELU("tanh"), nn.Linear(int(width * ratio), width))

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)))


class Block(nn.Module):
    """x + gate * attention (+ cross-attention) + gate * mlp, six modulations from c [B, 1 or N, D]. Zero gates."""

    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, width: int, heads: int, ratio: float, text: bool, shared: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, 1e-6, elementwise_affine=False) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width, ratio)
        self.cross = CrossAttention(width, heads) if text else None
        self.modulation = None if shared else nn.Linear(width, 6 * width)
        self.offset = nn.Parameter(torch.zeros(6 * width)) if shared else None
        for layer in (self.modulation, self.cross.out if text else None):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor, rotary: tuple | None = None, text: Tensor | None = None,
                mask: Tensor | None = None) -> Tensor:  # fmt: skip
        six = c + self.offset if self.modulation is None else self.modulation(c)
        shift1, scale1, gate1, shift2, scale2, gate2 = six.chunk(6, -1)
        x = x + gate1 * self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1), rotary)
        if self.cross is not None:
            x = x + self.cross(x, text, mask)
        return x + gate2 * self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))


class DiT(nn.Module):
    """x [B, C, H, W], t [B], per token [B, N] or per pixel [B, H W] (a token's time is the mean of its pixels') -> like x.

    cond: 'label' [B]; 'tokens' [B, L, text_dim], 'mask' [B, L], 'pooled' [B, text_dim]. taps: 'blocks.0', ... [B, N, D].
    """

    def __init__(self, channels: int = 4, patch: int = 4, width: int = 256, depth: int = 8, heads: int = 4,
                 classes: int = 0, text_dim: int = 0, positions: str = "rotary", shared: bool = False,
                 ratio: float = 4.0) -> None:  # fmt: skip
        super().__init__()
        if width % heads or (width // heads) % 4:
            raise OrnsteinError(f"DiT of width {width} with {heads} heads", "Each head needs a width divisible by 4.")
        if positions not in ("rotary", "sincos"):
            raise OrnsteinError(f"unknown positions '{positions}'", "Use rotary or sincos.")
        self.channels, self.patch, self.width, self.heads, self.positions = channels, patch, width, heads, positions
        self.classes, self.text_dim = classes, text_dim
        self.embed = nn.Linear(channels * patch * patch, width)
        self.time = TimeEmbedding(width)
        self.condition = Condition(width, classes, text_dim)
        self.modulation = nn.Linear(width, 6 * width) if shared else None
        self.blocks = nn.ModuleList(Block(width, heads, ratio, bool(text_dim), shared) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch * patch)
        for layer in (self.modulation, self.final_modulation, self.head):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def null_condition(self, cond: dict | None, batch: int) -> dict[str, Tensor]:
        return null_condition(cond, batch, self.classes, self.text_dim)

    def forward(self, x: Tensor, t: Tensor, cond: dict | None = None, taps: Sequence[str] = ()) -> Tensor | Output:
        check_size("DiT", x, self.channels, self.patch)
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        h, rotary = self.embed(_patches(x, self.patch).to(self.embed.weight.dtype)), None
        places = torch.cartesian_prod(torch.arange(rows, device=x.device), torch.arange(columns, device=x.device))
        if self.positions == "rotary":
            rotary = _rotary(places, self.width // self.heads, h.dtype)
        else:
            h = h + sinusoid(places, self.width // 2, 1.0).flatten(1).to(h.dtype)
        total, text, mask = self.condition(cond, len(x))
        if t.ndim == 2 and t.shape[1] == x.shape[2] * x.shape[3] != h.shape[1]:
            t = _patches(t.reshape(len(t), 1, *x.shape[2:]), self.patch).mean(-1)
        c = self.time(t)
        total = total[:, None] if isinstance(total, Tensor) else total
        c = F.silu((c[:, None] if c.ndim == 2 else c) + total)
        six = c if self.modulation is None else self.modulation(c)
        kept = {}
        for index, block in enumerate(self.blocks):
            h = block(h, six, rotary, text, mask)
            if f"blocks.{index}" in taps:
                kept[f"blocks.{index}"] = h
        shift, scale = self.final_modulation(c).chunk(2, -1)
        h = self.head(torch.addcmul(shift, self.final_norm(h), 1 + scale))
        out = _image(h, self.channels, rows, columns, self.patch)
        return Output(out, kept) if taps else out


def _patches(x: Tensor, p: int) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def _image(tokens: Tensor, c: int, rows: int, columns: int, p: int) -> Tensor:
    return tokens.reshape(-1, rows, columns, c, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, rows * p, columns * p)


def _rotary(places: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Tables [N, width/2]: a quarter of the head's pairs turn with the row, the others with the column."""
    angles = places[..., None].float() * 100.0 ** (-torch.arange(width // 4, device=places.device) / (width // 4))
    angles = angles.flatten(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)
