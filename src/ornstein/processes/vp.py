"""Variance-preserving diffusion: x_t = a x_0 + s noise with a^2 + s^2 = 1, on linear or cosine schedules.

Linear: Denoising Diffusion Probabilistic Models, Ho et al., 2020, arXiv:2006.11239, in the continuous form of Song et
al., 2020, arXiv:2011.13456 (eq. 33): log a = -t^2 (b1 - b0)/4 - t b0/2. Cosine: Nichol, Dhariwal, 2021,
arXiv:2102.09672 (eq. 17), here a = cos(angle) with the angle from 0 to a little under pi/2, so that a(t_max) > 0.
Costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import unknown
from ornstein.core.process import Process

__all__ = ["VP"]


@dataclass(frozen=True)
class VP(Process):
    """schedule: 'linear' or 'cosine'."""

    schedule: str = "cosine"
    beta_min: float = 0.1  # b0 of 'linear', per unit of t (Song et al.)
    beta_max: float = 20.0  # b1
    logsnr_min: float = -13.8  # of 'cosine' at t = 1: a(1) = 1e-3
    t_min: float = 1e-3  # smallest time at which the network is asked
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "cosine"):
            raise unknown("VP schedule", self.schedule, ("linear", "cosine"))

    @property
    def _widest(self) -> float:
        return math.atan(math.exp(-self.logsnr_min / 2))  # the angle at t = 1

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        if self.schedule == "cosine":
            angle, w = t * self._widest, self._widest
            return angle.cos(), angle.sin(), -w * angle.sin(), w * angle.cos()
        slope = self.beta_max - self.beta_min
        loga = -0.25 * t**2 * slope - 0.5 * t * self.beta_min
        a, s = loga.exp(), (-torch.expm1(2 * loga)).sqrt()
        da = a * (-0.5 * t * slope - 0.5 * self.beta_min)
        return a, s, da, -a * da / s.clamp_min(1e-12)  # from a^2 + s^2 = 1

    def time(self, logsnr: Tensor) -> Tensor:
        if self.schedule == "cosine":
            return torch.atan(torch.exp(-logsnr / 2)) / self._widest
        loga = -0.5 * torch.nn.functional.softplus(-logsnr)  # a^2 = sigmoid(logsnr)
        slope, b0 = self.beta_max - self.beta_min, self.beta_min
        return -4 * loga / (b0 + (b0**2 - 4 * slope * loga).sqrt())  # the stable root of the quadratic in t
