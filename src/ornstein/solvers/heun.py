"""Heun's method: a step along dx/dt, and again along the average of dx/dt at both of its ends.

Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, arXiv:2206.00364 (algorithm
1): d = dx/dt(x_t, t), x' = x_t + (s - t) d, x_s = x_t + (s - t)/2 (d + dx/dt(x', s)); the step to s = 0 stays
Euler's. Costs two network calls per step, one for the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

__all__ = ["Heun"]


@dataclass(frozen=True)
class Heun:
    """Of order 2, in the process's own time; nothing to set, nothing to remember."""

    order = 2

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        h = to.t - now.t
        first = denoise(x, t).velocity
        there = x + h * first
        last = to.s == 0  # per row: no network is asked at the data itself
        if bool(last.all()):
            return there, memory
        ask = torch.where(torch.as_tensor(s) > 0, s, t)  # a row that ends here asks again where it was: Euler
        average = (first + denoise(torch.where(last, x, there), ask).velocity) / 2
        return x + h * average, memory
