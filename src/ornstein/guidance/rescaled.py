"""Rescaled guidance: the guided answer is given back the standard deviation of the conditional one.

Common Diffusion Noise Schedules and Sample Steps are Flawed, Shanchuan Lin, Bingchen Liu, Jiashi Li, Xiao Yang, 2023,
arXiv:2305.08891 (section 3.4): x_cfg = x_neg + w (x_pos - x_neg) and, sigma being the standard deviation over all numbers
of one sample,

    x_final = phi x_cfg sigma_pos / sigma_cfg + (1 - phi) x_cfg.

Costs two network calls. What is rescaled is the network's own quantity; on another one the rule is another rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import KINDS, Prediction

from .layers.pair import inner, null

__all__ = ["Rescaled"]


@dataclass(frozen=True, eq=False)
class Rescaled:
    """uncond + scale (cond - uncond), brought to the deviation of cond by the share phi, each sample by itself."""

    scale: float = 1.0  # w; 1 = off
    phi: float = 0.7  # 0: plain classifier-free guidance, 1: the deviation of cond; the publication's 0.7
    kind: str | None = None  # the quantity: x0, noise, velocity, v or score; None: as the network gives it, the paper's

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise OrnsteinError(f"Rescaled(phi={self.phi})", "Give a share from 0 to 1.")
        if self.kind is not None and self.kind not in KINDS:
            raise unknown("prediction kind", self.kind, KINDS)

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        if self.scale == 1:
            return said
        kind = self.kind or said.kind
        good, weak = said.get(kind), null(denoiser, x, t, cond, clock).get(kind)
        value = weak + self.scale * (good - weak)
        if self.phi:
            ratio = _deviation(good) / _deviation(value).clamp_min(1e-12)
            value = value * (1 + self.phi * (ratio - 1)).to(value)
        return said.like(kind, value)


def _deviation(x: Tensor) -> Tensor:
    """About the mean of each sample, up to a factor that cancels; [B, 1, ...]."""
    x = x - x.flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))
    return inner(x, x).sqrt()
