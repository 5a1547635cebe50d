"""Equal steps in log-SNR, and then 0: what the exponential integrators reckon in.

DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps, Lu et al., 2022,
arXiv:2206.00927 (section 3.4 and appendix D.3, uniform lambda). Costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

from .layers.ladder import ends, times

__all__ = ["LogSNR"]


@dataclass(frozen=True)
class LogSNR:
    """Nothing to set: from the prior's log-SNR to that of t_min."""

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        high, low = (math.log(v) for v in ends(process))
        return times(process, torch.linspace(high, low, steps, dtype=torch.float64).exp())
