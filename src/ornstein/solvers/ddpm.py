"""Ancestral sampling: each step draws from the posterior q(x_s | x_t, x0) of the Markov chain, at the predicted x0.

Denoising Diffusion Probabilistic Models, Ho, Jain, Abbeel, 2020, arXiv:2006.11239 (eq. 6 and 7, algorithm 2), for any
two times of any Gaussian process. With q(x_t | x_s) = N(A x_s, b), A = a_t/a_s and b = s_t^2 - A^2 s_s^2 (their
beta_t), the mean is (A s_s^2 x_t + a_s b x0) / s_t^2. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process, pick

__all__ = ["DDPM"]


@dataclass(frozen=True)
class DDPM:
    """variance: 'small' is right for data that are one point (b s_s^2 / s_t^2), 'large' for data that are N(0, 1)."""

    variance: str = "small"  # of section 3.2; 'large' is beta_t on a variance-preserving process

    order = 0

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise unknown("variance", self.variance, ("small", "large"))

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        x0 = denoise(x, t).x0
        A = now.a / to.a
        b = now.s**2 - A**2 * to.s**2
        mean = (A * to.s**2 * x + to.a * b * x0) / now.s**2
        if self.variance == "small":
            spread = b * to.s**2 / now.s**2
        else:  # Cov(x_s | x_t) for unit data; a^2 + s^2 = 1 leaves beta_t
            spread = b * (to.a**2 + to.s**2) / (now.a**2 + now.s**2)
        fresh = memory["noise"].draw(memory["k"], x)
        noisy = mean + spread.clamp_min(0).sqrt() * fresh
        return pick(to.s > 0, noisy, mean), memory | {"k": memory["k"] + 1}
