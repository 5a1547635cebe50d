"""DPM-Solver++(2M): the exponential integrator of x0 with a slope in log-SNR taken from the step before.

DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Lu, Zhou, Bao, Chen, Li, Zhu, 2022,
arXiv:2211.01095 (algorithm 2). With lambda = log(a/s), h = lambda_s - lambda_t and h' the step before:
D = (1 + h/(2h')) x0(x_t) - h/(2h') x0(before), x_s = (s_s/s_t) x_t - a_s (e^-h - 1) D. The first step and the step to
s = 0 have no second term. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.exponential import Rule, follow, fresh

__all__ = ["DPMpp2M"]

RULE = Rule("x0", "lambda", pair="bh2")  # h/(2h') is what UniPC calls B2(h)


@dataclass(frozen=True)
class DPMpp2M:
    """Of order 2, in log-SNR; it remembers the last x0 [B, ...] and its time, one per row."""

    order = 2

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return fresh()

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        return follow(RULE, 2, denoise, process, x, t, s, memory)
