"""Even steps of flow time, swayed by a cosine towards the noise or towards the data.

F5-TTS: A Fairytaler that Fakes Fluent and Faithful Speech with Flow Matching, Chen, Niu, Ma, Deng, Wang, Zhao, Yu, Chen,
2024, arXiv:2410.06885 (section 3.2): with u even in [0, 1] from noise to data, f(u; s) = u + s (cos(pi u/2) - 1 + u). Here
tau = s/(a+s) = tau_max (1 - f), so that every process gets the same levels. Costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process

from .layers.flowtime import times

__all__ = ["Sway"]

MOST = 2 / (math.pi - 2)  # beyond it f falls somewhere


@dataclass(frozen=True)
class Sway:
    """s = -1 is the paper's: small steps at the noise; 0 is even; above 0, small steps at the data."""

    s: float = -1.0  # in [-1, 2/(pi - 2)], about 1.75

    def __post_init__(self) -> None:
        if not -1 <= self.s <= MOST:
            raise OrnsteinError(f"s={self.s} of the sway grid is outside [-1, {MOST:.4g}]", "Give a number within it.")

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return times(process, 1 - u - self.s * ((u * math.pi / 2).cos() - 1 + u))
