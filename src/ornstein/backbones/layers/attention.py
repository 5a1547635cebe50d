"""Attention over tokens, and from tokens to text. Both are branches of the seam; what they call is one fused kernel."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.sites import Seat

__all__ = ["Attention", "CrossAttention"]


class Attention(nn.Module):
    """Self-attention over tokens [B, N, D] with rotary tables (cos, sin) [N, d/2] or none."""

    seat: ClassVar[Seat] = Seat("branch", "attention")

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads, 1e-6), nn.RMSNorm(width // heads, 1e-6)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kind = self.norm_q.weight.dtype
        q, k = self.norm_q(q.to(kind)).to(v.dtype), self.norm_k(k.to(kind)).to(v.dtype)
        if rotary is not None:
            q, k = _rotate(q, rotary), _rotate(k, rotary)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Tokens [B, N, D] look at text [B, L, D]; mask [B, 1, 1, L] is True where there is text."""

    seat: ClassVar[Seat] = Seat("branch", "cross_attention")

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


def _rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    one, two = x.chunk(2, -1)
    cos, sin = tables
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)
