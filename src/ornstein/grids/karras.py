"""Noise levels whose rho-th roots lie at equal distances, and then 0.

Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, arXiv:2206.00364 (eq. 5):
sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, sigma_n = 0. Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

from .layers.ladder import ends, times

__all__ = ["Karras"]


@dataclass(frozen=True)
class Karras:
    """rho = 7 is the paper's; larger puts more steps near the data."""

    rho: float = 7.0

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        high, low = (v ** (1 / self.rho) for v in ends(process))
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return times(process, (high + ramp * (low - high)) ** self.rho)
