"""Classical Runge-Kutta methods along dx/dt in the process's own time: RK4, Kutta's and Heun's third order, the midpoint.

Beitrag zur naeherungsweisen Integration totaler Differentialgleichungen, Kutta, 1901; as the solver of a flow, Flow Straight
and Fast, Liu et al., 2022, arXiv:2209.03003 (section 2, any ODE solver). RK4, h = s - t: k1 = v(x, t), k2 = v(x + h/2 k1, t + h/2),
k3 = v(x + h/2 k2, t + h/2), k4 = v(x + h k3, s), x_s = x + h/6 (k1 + 2 k2 + 2 k3 + k4). Costs 4 network calls per step (3 for
kutta3, 2 for midpoint and ralston); 3 of order 3 for the step to the data, where k4 cannot be asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.singlestep import advance, straight
from .layers.tableau import ButcherRule, tableau

__all__ = ["RK4"]


@dataclass(frozen=True)
class RK4:
    """Of the order of its tableau, in the process's own time; nothing to remember."""

    method: str = "rk4"  # midpoint, heun, ralston, heun3, kutta3 or rk4

    def __post_init__(self) -> None:
        tableau("rk4", self.method)

    @property
    def order(self) -> int:
        """2 to 4."""
        return tableau("rk4", self.method).order

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        return advance(denoise, process, x, t, s, ButcherRule(self.method, "t"), "velocity", straight), None
