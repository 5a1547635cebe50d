"""A ladder of noise-to-signal ratios made into times."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["ends", "times"]

TINY, HUGE = 1e-4, 1e3  # a flow has no signal at all at its prior: there its sigma counts as HUGE


def ends(process: Process) -> tuple[float, float]:
    """The largest sigma = s/a of a process, at t_max, and the smallest that its network is asked about, at t_min."""
    a, s, *_ = process.coefficients(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    high, low = (s / a.clamp_min(TINY)).clamp(max=HUGE).tolist()
    return high, low


def times(process: Process, sigma: Tensor) -> Tensor:
    """Decreasing sigmas [n], the first of which stands for the prior -> n + 1 times from t_max to 0, float64."""
    inner = process.time(-2 * sigma[1:].log()).clamp(max=process.t_max)
    return torch.cat([inner.new_tensor([process.t_max]), inner, inner.new_zeros(1)])
