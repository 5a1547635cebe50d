"""Linear flow: x_t = (1 - t) x_0 + t noise, the straight path from data (t = 0) to noise (t = 1).

Flow Matching for Generative Modeling, Lipman et al., 2022, arXiv:2210.02747 (eq. 22 with sigma_min = 0); Flow
Straight and Fast, Liu et al., 2022, arXiv:2209.03003 (eq. 1). Its velocity is dx/dt = noise - x_0. Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["Flow"]


@dataclass(frozen=True)
class Flow(Process):
    """a = 1 - t, s = t."""

    t_min: float = 1e-3  # smallest time at which the network is asked
    t_max: float = 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(-logsnr / 2)  # (1-t)/t = exp(logsnr/2)
