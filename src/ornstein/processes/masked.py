"""Masked (absorbing) diffusion of tokens: each one turns into the mask by itself, once, and is hidden from then on.

Structured Denoising Diffusion Models in Discrete State-Spaces, Austin et al., 2021, arXiv:2107.03006 (section 3.1,
absorbing state); MDLM: Sahoo et al., 2024, arXiv:2406.07524 (eq. 4 and 7); Shi et al., 2024, arXiv:2406.04329 (table 4).

    q(x_t | x_0) = Cat(alpha(t) x_0 + (1 - alpha(t)) m),   q(x_s | x_t = m, x_0) = Cat(p m + (1 - p) x_0),
    p = (1 - alpha(s)) / (1 - alpha(t)) for s < t; a token that is seen at t is what it was at every s < t.

Costs nothing. In terms of Levels: a = alpha, the share of tokens that are seen; s = 1 - alpha, the share hidden, which is the
flow time too; logSNR = 2 log(a/s).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.process import Levels, Process, pick

__all__ = ["Masked", "SCHEDULES"]

LEFT = 1e-3  # alpha(1) of 'loglinear', so that -log(alpha) is finite everywhere

# hidden share 1 - alpha, its derivative, and the t at which it is h
SCHEDULES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda t: t, torch.ones_like, lambda h: h),
    "cosine": (lambda t: (math.pi / 2 * (1 - t)).cos(), lambda t: math.pi / 2 * (math.pi / 2 * (1 - t)).sin(),
               lambda h: 1 - h.acos() * 2 / math.pi),
    "loglinear": (lambda t: (1 - LEFT) * t, lambda t: torch.full_like(t, 1 - LEFT), lambda h: h / (1 - LEFT)),
}  # fmt: skip


@dataclass(frozen=True)
class Masked:
    """Tokens int64 [B, ...] in 0..tokens-1; the mask is the number `tokens` itself. Networks say logits [B, ..., tokens]."""

    tokens: int = 256  # K, without the mask
    schedule: str = "linear"  # linear, cosine, loglinear (linear down to alpha = 0.001)
    t_min: float = 1e-3  # smallest time at which the network is asked in training
    t_max: float = 1.0

    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule of masks", self.schedule, SCHEDULES)
        if self.tokens < 2:
            raise OrnsteinError(f"{self.tokens} tokens leave nothing to say", "Give the size of the vocabulary, 2 or more.")

    at = Process.at  # levels at [], [B] or leading axes, as of every process

    @property
    def mask(self) -> int:
        """The token that hides."""
        return self.tokens

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        """(alpha, 1 - alpha) and their derivatives."""
        hidden, slope, _ = SCHEDULES[self.schedule]
        return 1 - hidden(t), hidden(t), -slope(t), slope(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return SCHEDULES[self.schedule][2](torch.sigmoid(-logsnr / 2))

    def kernel(self, noise: Tensor) -> Tensor:
        return noise

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t [B, ...]; noise: unit normal of the same shape, whose quantile says when its token goes. More go, and none comes
        back, as t grows."""
        if x0.is_floating_point():
            raise OrnsteinError(f"tokens of type {x0.dtype}", "Give whole numbers, 0 to tokens - 1.")
        return torch.where(torch.special.ndtr(noise.double()) < self.at(t, x0).s, self.mask, x0)

    def prior(self, noise: Tensor) -> Tensor:
        """All hidden, of the noise's shape."""
        return torch.full(noise.shape, self.mask, device=noise.device)

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """Chances [B, ..., K + 1] of x_s given x_t = x, s < t. x0: tokens [B, ...], or their chances [B, ..., K]: q is linear in
        x0, so that the chances of a network give the mean of q over what it says."""
        chances = x0 if x0.is_floating_point() else F.one_hot(x0, self.tokens).double()
        keep = self.stay(x, t, s)[..., None].to(chances)
        hidden = torch.cat([(1 - keep) * chances, keep.expand_as(chances[..., :1])], -1)
        return torch.where((x == self.mask)[..., None], hidden, F.one_hot(x, self.tokens + 1).to(chances))

    def stay(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The chance (1 - alpha(s)) / (1 - alpha(t)) that what is hidden at t is so at s, [] or broadcast to x."""
        now, to = self.at(t, x).s, self.at(s, x).s
        return pick(now > 0, to / now.clamp_min(1e-300 if now.dtype == torch.float64 else 1e-30), to * 0)

    def rate(self, levels: Levels) -> Tensor:
        """-alpha' / (1 - alpha): how often, per unit of time, a hidden token comes to light on the way back."""
        return levels.ds / levels.s
