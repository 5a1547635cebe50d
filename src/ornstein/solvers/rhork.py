"""rhoRK of DEIS: a classical Runge-Kutta method in rho = s/a, where the ODE of x/a has nothing but the noise on its right.

Fast Sampling of Diffusion Models with Exponential Integrator, Zhang, Chen, 2022, arXiv:2204.13902 (section 3.3, rhoRK):
with y = x/a and rho = s/a, dy/drho = noise(a y, t(rho)); any explicit method takes y from rho_t to rho_s, and its Euler step is
DDIM's. Costs 2 (midpoint, heun, ralston), 3 (heun3, kutta3) or 4 (rk4) network calls per step, one for a step from pure
noise, and for the step to the data those of the tableau that closes it: 1 for heun, 2 for kutta3, 3 for rk4.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.singlestep import advance, ddim
from .layers.tableau import ButcherRule, tableau

__all__ = ["RhoRK"]


@dataclass(frozen=True)
class RhoRK:
    """Of the order of its tableau, in rho; nothing to remember."""

    method: str = "midpoint"  # midpoint, heun, ralston, heun3, kutta3 or rk4

    def __post_init__(self) -> None:
        tableau("rhork", self.method)

    @property
    def order(self) -> int:
        """2 to 4."""
        return tableau("rhork", self.method).order

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        return advance(denoise, process, x, t, s, ButcherRule(self.method, "rho"), "noise", ddim), None
