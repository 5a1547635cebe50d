"""Shares of flow time tau = s/(a+s) made into times: the same noise levels on every process."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["times"]


def times(process: Process, share: Tensor) -> Tensor:
    """Decreasing shares [n + 1] of the prior's tau, from 1 to 0 -> n + 1 times from t_max to 0, float64."""
    ends = torch.tensor([process.t_max, 0.0], dtype=torch.float64)
    a, s, *_ = process.coefficients(ends[:1])
    tau = s / (a + s) * share[1:-1]
    return torch.cat([ends[:1], process.time(2 * ((1 - tau) / tau).log()), ends[1:]])
