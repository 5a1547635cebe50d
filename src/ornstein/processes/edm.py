"""EDM's variance-exploding process: x_t = x_0 + t noise, where the time is the noise's standard deviation itself.

Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, arXiv:2206.00364 (table 1:
s(t) = 1, sigma(t) = t). Sampling runs from sigma 80 to 0.002, then to 0. Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["EDM"]


@dataclass(frozen=True)
class EDM(Process):
    """a = 1, s = t."""

    t_min: float = 0.002  # sigma_min
    t_max: float = 80.0  # sigma_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.exp(-logsnr / 2)
