"""Times at equal distances, if wanted shifted towards the noise as large pictures ask for.

Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, Esser et al., 2024, arXiv:2403.03206 (eq. 23):
with flow time tau = s/(a+s), tau' = shift tau / (1 + (shift - 1) tau), that is sigma' = shift sigma; the prior stays where it
is. Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """shift > 1 takes larger steps near the data, as 3 does for 1024 px in the paper."""

    shift: float = 1.0  # factor on sigma = s/a; 1 is none

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        times = process.t_max * torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if self.shift == 1.0:
            return times
        a, s, *_ = process.coefficients(times[:-1])
        tau = s / (a + s)
        u = tau / tau[0]
        tau = tau[0] * self.shift * u / (1 + (self.shift - 1) * u)
        return torch.cat([times[:1], process.time(2 * ((1 - tau) / tau).log())[1:], times[-1:]])
