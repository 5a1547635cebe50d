"""LMS: the linear multistep method on dx/dsigma, a polynomial in sigma through the last noise predictions.

The sampler of k-diffusion (Katherine Crowson, 2022), on the ODE of Elucidating the Design Space of Diffusion-Based
Generative Models, Karras et al., 2022, arXiv:2206.00364 (eq. 1): for x/a at sigma = s/a, d(x/a)/dsigma = noise, so that
x_s/a_s = x_t/a_t + sum_j noise(x_{t_j}) int_{sigma_t}^{sigma_s} l_j(sigma) dsigma with Lagrange's l_j through the last
sigmas: Adams and Bashforth on uneven steps, exact integrals. Starts with Euler and then uses what answers there are.
Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.exponential import Rule, follow, fresh

__all__ = ["LMS"]

RULE = Rule("noise", "sigma")


@dataclass(frozen=True)
class LMS:
    """Each step is of order `points` given as many answers; from a start with one, the whole is of order 2 at most."""

    points: int = 4  # answers that the polynomial goes through, 1 to 4: k-diffusion's 'order'

    def __post_init__(self) -> None:
        if self.points not in (1, 2, 3, 4):
            raise OrnsteinError(f"points={self.points} of LMS", "Give 1, 2, 3 or 4.")

    @property
    def order(self) -> int:
        return min(self.points, 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return fresh()

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        return follow(RULE, self.points, denoise, process, x, t, s, memory)
