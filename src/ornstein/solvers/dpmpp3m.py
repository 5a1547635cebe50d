"""DPM-Solver++(3M): the exponential integrator of x0 with slope and curvature in log-SNR taken from two steps before.

DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Lu, Zhou, Bao, Chen, Li, Zhu, 2022,
arXiv:2211.01095 (the multistep solver of third order of their code). With lambda = log(a/s), h = lambda_s - lambda_t,
x_s = (s_s/s_t) x_t - a_s (e^-h - 1) x0 + a_s ((e^-h - 1)/h + 1) D1 - a_s ((e^-h - 1 + h)/h^2 - 1/2) D2, where D1 =
h x0' and D2 = h^2 x0''/2 of the parabola in lambda through the last three x0; the integral itself has 2 D2. Starts with
DDIM and DPM-Solver++(2M); the step to s = 0 is DDIM. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.exponential import Rule, follow, fresh

__all__ = ["DPMpp3M"]

WHOLE = Rule("x0", "lambda", pair="bh2")
HALVED = WHOLE._replace(curve=0.5)


@dataclass(frozen=True)
class DPMpp3M:
    """Of order 2: its first step, DDIM, allows no more. With faithful=False, of order 3 given three exact answers."""

    faithful: bool = True  # the released weight of D2, half the integral's: formally of order 2, nearer where it counts

    order = 2

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return fresh()

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        return follow(HALVED if self.faithful else WHOLE, 3, denoise, process, x, t, s, memory)
