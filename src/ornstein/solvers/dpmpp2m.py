"""DPM-Solver++(2M): the exponential integrator of x0 with a slope in log-SNR taken from the step before.

DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Lu, Zhou, Bao, Chen, Li, Zhu, 2022,
arXiv:2211.01095 (algorithm 2). With lambda = log(a/s), h = lambda_s - lambda_t and h' the step before:
D = (1 + h/(2h')) x0(x_t) - h/(2h') x0(before), x_s = (s_s/s_t) x_t - a_s (e^-h - 1) D. The first step and the step to
s = 0 have no second term. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

__all__ = ["DPMpp2M"]


@dataclass(frozen=True)
class DPMpp2M:
    """Of order 2, in log-SNR; it remembers the last x0 [B, ...] and its time, one per row."""

    order = 2

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        x0 = denoise(x, t).x0
        h = (to.logsnr - now.logsnr) / 2  # infinite where it comes from pure noise or goes to the data
        D = x0
        if memory:
            D = x0 + self._ratio(h, now, process.at(memory["t"], x)) * (x0 - memory["x0"])
        return to.s / now.s * x - to.a * torch.expm1(-h) * D, {"x0": x0, "t": t}

    @staticmethod
    def _ratio(h: Tensor, now: Levels, before: Levels) -> Tensor:
        """h / (2h'), 0 where either step is infinite."""
        ratio = h / (now.logsnr - before.logsnr)  # of log-SNR = 2 lambda
        return torch.where(torch.isfinite(h) & torch.isfinite(ratio), ratio, torch.zeros_like(ratio))
