"""Weights of several denoisers for every place of the sample, from what they said there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Gate"]


class Gate(nn.Module):
    """(x [B, C, H, W], answers as x0 [each like x], place [B]) -> weights [models, B, 1, H, W], positive, of sum 1.

    A residual block of 3x3 convolutions under the time and a 1x1 convolution to one channel for each model. The last is
    zero at the start: all models count alike.
    """

    def __init__(self, channels: int, models: int, width: int = 24) -> None:
        super().__init__()
        self.into = nn.Conv2d(channels * (models + 1), width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(9, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.out = nn.Conv2d(width, models, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, answers: Sequence[Tensor], place: Tensor) -> Tensor:
        h = self.into(torch.cat([x, *answers], 1).to(self.out.weight))
        angle = place.to(h)[:, None] * torch.arange(1, 5, device=h.device) * torch.pi
        told = self.time(torch.cat([angle.cos(), angle.sin(), place.to(h)[:, None]], 1))
        scale, shift = told[..., None, None].chunk(2, 1)
        h = h + self.second(F.silu(self.first(F.silu(h)) * (1 + scale) + shift))
        return self.out(F.silu(h)).softmax(1).unsqueeze(2).transpose(0, 1).to(x)
