"""Euler's method on the probability-flow ODE: one straight step along dx/dt, in the process's own time.

dx/dt = da/dt x0 + ds/dt noise (the ODE of Song et al., 2020, arXiv:2011.13456, eq. 13, written with the prediction),
so x_s = x_t + (s - t) dx/dt. On the linear flow and on EDM it is DDIM; on a variance-preserving process it is not.
Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

__all__ = ["Euler"]


@dataclass(frozen=True)
class Euler:
    """Of order 1; nothing to set, nothing to remember."""

    order = 1

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        h = process.at(s, x).t - process.at(t, x).t
        return x + h * denoise(x, t).velocity, memory
