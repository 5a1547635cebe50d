"""DEIS: the exponential integrator of the noise prediction, extrapolated by a polynomial in t through past answers.

Fast Sampling of Diffusion Models with Exponential Integrator, Zhang, Chen, 2022, arXiv:2204.13902 (eq. 14 and 15): with
Psi(s, t) = a_s/a_t, x_s = Psi(s, t) x_t + sum_j C_j noise(x_{t_j}), C_j = int_t^s Psi(s, r) w(r) l_j(r) dr, where l_j are
Lagrange's polynomials through the last times and w(r) dr = a_r d(s/a). Their tAB-DEIS q has q + 1 points and is
polynomial in t; rhoAB-DEIS in rho = s/a. Starts with DDIM and then uses what answers there are. Costs one network call
per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.exponential import Rule, follow, fresh

__all__ = ["DEIS"]

VARIABLES = {"t": "t", "rho": "sigma", "logrho": "lambda"}


@dataclass(frozen=True)
class DEIS:
    """Each step is of order `points` given as many answers; from a start with one, the whole is of order 2 at most."""

    points: int = 4  # answers that the polynomial goes through, 1 to 4: tAB0 (DDIM) to tAB3, the paper's best
    variable: str = "t"  # of the polynomial: t (tAB), rho (rhoAB) or logrho (as in diffusers)

    def __post_init__(self) -> None:
        if self.variable not in VARIABLES:
            raise unknown("variable of DEIS", self.variable, VARIABLES)
        if self.points not in (1, 2, 3, 4):
            raise OrnsteinError(f"points={self.points} of DEIS", "Give 1, 2, 3 or 4.")

    @property
    def order(self) -> int:
        return min(self.points, 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return fresh()

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        return follow(Rule("noise", VARIABLES[self.variable]), self.points, denoise, process, x, t, s, memory)
