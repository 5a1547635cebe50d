"""Thresholding: what is predicted of the clean sample is kept within its range, by clipping or by percentile.

Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, Chitwan Saharia, William Chan, Saurabh
Saxena, et al., 2022, arXiv:2205.11487 (section 2.3). Static: x0 is clipped to [-1, 1]. Dynamic: with s the percentile p of
the absolute values of x0 within one sample,

    s <- max(s, 1),   x0 <- clip(x0, -s, s) / s.

For data with a known range, pixels above all; costs a sort of each sample per call, and no network call. Goes outermost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

__all__ = ["Thresholding"]


@dataclass(frozen=True, eq=False)
class Thresholding:
    """x0 within [-bound, bound], each sample by itself; what follows from x0 changes with it."""

    bound: float = math.inf  # of the data; the publication's 1; infinite: off
    percentile: float | None = 0.995  # p of dynamic thresholding, a share; None: static. The publication's 0.995

    def __post_init__(self) -> None:
        if not self.bound > 0 or (self.percentile is not None and not 0 < self.percentile <= 1):
            raise OrnsteinError(f"Thresholding(bound={self.bound}, percentile={self.percentile})",
                                "The bound is above 0, the percentile a share up to 1, or None.")  # fmt: skip

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...] or None."""
        said = denoiser(x, t, cond, clock)
        if self.bound == math.inf:
            return said
        x0 = said.x0
        if self.percentile is None:
            return said.like("x0", x0.clamp(-self.bound, self.bound))
        limit = _quantile(x0.abs(), self.percentile).clamp_min(self.bound)
        return said.like("x0", torch.minimum(torch.maximum(x0, -limit), limit) * (self.bound / limit))


def _quantile(x: Tensor, share: float) -> Tensor:
    """Of all numbers of each sample, interpolated; [B, 1, ...]. By sorting: torch.quantile has a largest size."""
    ordered = x.flatten(1).sort(1).values
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    value = ordered[:, low].lerp(ordered[:, min(low + 1, ordered.shape[1] - 1)], place - low)
    return value.reshape(-1, *[1] * (x.ndim - 1))
