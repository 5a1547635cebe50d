"""Log-SNR at the powers of equal distances, and then 0: between even log-SNR and steps that crowd at the data.

k-diffusion, Crowson, 2022 (`get_sigmas_polyexponential`): log sigma_i = log sigma_min + (1 - i/(n-1))^rho (log sigma_max -
log sigma_min), sigma_n = 0. Costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process

from .layers.ladder import ends, times

__all__ = ["Polyexponential"]


@dataclass(frozen=True)
class Polyexponential:
    """rho = 1 is even in log-SNR; above 1, small steps at the data, below 1, at the noise."""

    rho: float = 1.0  # above 0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise OrnsteinError(f"rho={self.rho} of the polyexponential grid is not above 0", "Give 1 for even steps.")

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        high, low = (math.log(v) for v in ends(process))
        ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** self.rho
        return times(process, (low + ramp * (high - low)).exp())
