"""Times whose roots lie at equal distances: small steps near the data.

Denoising Diffusion Implicit Models, Song, Meng, Ermon, 2020, arXiv:2010.02502 (appendix D.2): t_i = t_max (1 - i/n)^2.
Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["Quadratic"]


@dataclass(frozen=True)
class Quadratic:
    """power = 2 is the paper's; 1 would be uniform."""

    power: float = 2.0

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        return process.t_max * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** self.power
