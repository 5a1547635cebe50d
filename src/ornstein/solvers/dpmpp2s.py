"""DPM-Solver++(2S): a singlestep exponential integrator of x0 in log-SNR, of order 2, and its relative of order 3.

DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Lu, Zhou, Bao, Chen, Li, Zhu, 2022,
arXiv:2211.01095 (algorithm 1). With lambda = log(a/s), h = lambda_s - lambda_t, D_t the x0 predicted at x_t:
u = (s_r/s_t) x - a_r (e^{-rh} - 1) D_t at lambda_t + r h, r = 1/2, D = (1 - 1/(2r)) D_t + D(u)/(2r) and
x_s = (s_s/s_t) x - a_s (e^{-h} - 1) D. Order 3, which the authors' program calls 3S, has nodes at 1/3 and 2/3
(layers/singlestep_exponential.py). Costs `order` network calls per step, one for a step from pure noise or to the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.singlestep import advance, ddim
from .layers.singlestep_exponential import ExponentialRule, check

__all__ = ["DPMpp2S"]


@dataclass(frozen=True)
class DPMpp2S:
    """Of the given order, in log-SNR; nothing to remember."""

    order: int = 2  # 1 (is DDIM), 2 or 3 (3S)
    form: str = "paper"  # 'taylor': derivatives of the full Taylor step; 'midpoint': order 3 with its inner node by order 2

    def __post_init__(self) -> None:
        check("dpmpp2s", self.order, self.form)

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        return advance(denoise, process, x, t, s, ExponentialRule("x0", self.order, self.form), "x0", ddim), None
