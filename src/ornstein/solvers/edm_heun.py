"""EDM's stochastic sampler: noise is added to reach a higher level, then Heun's step in sigma goes down from there.

Elucidating the Design Space of Diffusion-Based Generative Models, Karras, Aittala, Aila, Laine, 2022, arXiv:2206.00364
(algorithm 2), with y = x/a and sigma = s/a on any Gaussian process: gamma = min(S_churn/N, sqrt 2 - 1) where S_tmin <=
sigma <= S_tmax, sigma^ = (1 + gamma) sigma, y^ = y + S_noise sqrt(sigma^^2 - sigma^2) xi, then algorithm 1's step from
sigma^ with dy/dsigma = noise. Costs two network calls per step, one for the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process, pick

from .layers.stochastic import renew, split, weights

__all__ = ["EDMHeun"]


def _churn(levels: tuple[Levels, ...], process: Process, gamma: float, low: float, high: float) -> tuple[Tensor, ...]:
    """The raised time, the weight of x_t there, and of fresh noise. Never above the prior's level."""
    (now,) = levels
    raised = now.sigma * (1 + gamma)
    top = process.at(process.t_max, torch.empty((), dtype=torch.float64)).sigma.to(raised)
    inside = (now.sigma >= low) & (now.sigma <= high) & (now.sigma < top)
    time = torch.where(inside, process.time(-2 * torch.minimum(raised, top).log()), now.t)
    there = process.at(time, now.t)
    old = torch.where(inside, there.a / now.a, 1.0)
    return time, old, (there.s**2 - (old * now.s) ** 2).clamp_min(0).sqrt() * inside


def _heun(levels: tuple[Levels, ...]) -> tuple[Tensor, ...]:
    """Euler's weights of x and x0, and that of the second noise less the first."""
    now, to = levels
    old, data, _ = split(now, to, to.s)
    second = to.a * (to.sigma - now.sigma) / 2
    return old, data, torch.where(torch.isfinite(second) & (to.s > 0), second, 0.0)


@dataclass(frozen=True)
class EDMHeun:
    """Without churn it is Heun's method in sigma, of order 2."""

    churn: float = 0.0  # S_churn of the whole run; the paper: 30 to 80 for pictures
    low: float = 0.0  # S_tmin, of sigma = s/a
    high: float = float("inf")  # S_tmax
    s_noise: float = 1.0  # S_noise; the paper: up to 1.007
    steps: int = 0  # N of S_churn / N; 0: the number of steps of the run

    weak_order = 2

    @property
    def order(self) -> int:
        return 0 if self.churn else 2

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        if self.churn:
            gamma = min(self.churn / self._count(denoise), math.sqrt(2) - 1)
            time, old, fresh = weights(_churn, process, x, (t,), process, gamma, self.low, self.high)
            t = time.reshape(-1) if isinstance(time, Tensor) else time
            x, memory = renew(old * x, self.s_noise * fresh, memory)
        old, data, second = weights(_heun, process, x, (t, s))
        first = denoise(x, t)
        there = old * x + data * first.x0
        if isinstance(second, float) and second == 0:
            return there, memory
        if isinstance(second, float):
            return there + second * (denoise(there, s).noise - first.noise), memory
        last = torch.as_tensor(s) == 0  # per row: no network is asked at the data itself
        ask = torch.where(last, torch.as_tensor(t), torch.as_tensor(s))
        again = denoise(pick((second == 0), x, there), ask)
        return there + second * (again.noise - first.noise), memory

    def _count(self, denoise: Evaluate) -> int:
        count = self.steps or getattr(getattr(denoise, "clock", None), "steps", 0)
        if not count:
            raise OrnsteinError("churn without a number of steps", "Give EDMHeun(steps=N), or sample with the loop.")
        return count
