"""DDIM: the exponential integrator of first order, exact where x0 does not change over the step.

Denoising Diffusion Implicit Models, Song, Meng, Ermon, 2020, arXiv:2010.02502 (eq. 12): x_s = a_s x0(x_t) + s_s
noise(x_t), here for every Gaussian process; eta adds fresh noise (eq. 16), eta = 1 is ancestral sampling. Costs one
network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM:
    """eta = 0 is deterministic and of order 1."""

    eta: float = 0.0  # share of the ancestral noise, 0 to 1

    @property
    def order(self) -> int:
        return 1 if self.eta == 0 else 0

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        said = denoise(x, t)
        if self.eta == 0:
            return to.a * said.x0 + to.s * said.noise, memory
        # eq. 16: variance of the posterior q(x_s | x_t, x0), and what is left of the old noise
        fresh = self.eta * to.s * (1 - (now.a * to.s / (to.a * now.s)) ** 2).clamp_min(0).sqrt()
        kept = (to.s**2 - fresh**2).clamp_min(0).sqrt()
        new = memory["noise"].draw(memory["k"], x)
        return to.a * said.x0 + kept * said.noise + fresh * new, memory | {"k": memory["k"] + 1}
