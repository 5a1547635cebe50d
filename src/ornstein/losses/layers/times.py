"""Laws of the training time. Each is called with uniform numbers u [B] in (0, 1) and the process; gives t [B]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["LogNormal", "LogitNormal", "TIMES", "Uniform"]


@dataclass(frozen=True)
class Uniform:
    """t uniform in [t_min, t_max]."""

    def __call__(self, u: Tensor, process: Process) -> Tensor:
        return process.t_min + u * (process.t_max - process.t_min)


@dataclass(frozen=True)
class LogitNormal:
    """The flow time s/(a+s) is the logistic of a normal variable (Esser et al., 2024, arXiv:2403.03206, eq. 19)."""

    mean: float = 0.0  # above 0: more noise
    std: float = 1.0

    def __call__(self, u: Tensor, process: Process) -> Tensor:
        logit = self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return process.time(-2 * logit).clamp(process.t_min, process.t_max)  # logsnr = -2 logit(flow time)


@dataclass(frozen=True)
class LogNormal:
    """log sigma is normal (Karras et al., 2022, arXiv:2206.00364, table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, process: Process) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        return process.time(-2 * log_sigma).clamp(process.t_min, process.t_max)


TIMES = {"uniform": Uniform(), "logit-normal": LogitNormal(), "edm": LogNormal()}
