"""Euler ancestral: an Euler step in sigma = s/a to below the level asked for, and fresh noise back up to it.

The sampler that k-diffusion (Crowson, 2022) made known; its chain is that of Denoising Diffusion Probabilistic Models,
Ho et al., 2020, arXiv:2006.11239, its steps those of EDM, arXiv:2206.00364. down = 'sigma': sigma_up = eta sigma_s
sqrt(1 - sigma_s^2/sigma_t^2), sigma_down^2 = sigma_s^2 - sigma_up^2. down = 'flow' (rectified flows): with tau = s/(a+s),
tau_down = tau_s (1 + eta (tau_s/tau_t - 1)), where the sample is scaled back to a_s. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.stochastic import ancestral, renew, split, weights

__all__ = ["EulerAncestral"]


def _rule(levels: tuple[Levels, ...], down: str, eta: float) -> tuple[Tensor, ...]:
    now, to = levels
    if down == "sigma":
        return split(now, to, ancestral(now, to, eta))
    tau = to.flow_time * (1 + eta * (to.flow_time / now.flow_time - 1))
    return split(now, to, to.a * tau / (1 - tau))


@dataclass(frozen=True)
class EulerAncestral:
    """On any Gaussian process: an Euler step of x/a in sigma is exact where x0 stays the same."""

    eta: float = 1.0  # share of the ancestral noise, 0 (an ODE, order 1) to 1
    s_noise: float = 1.0  # factor on the fresh noise
    down: str = "sigma"  # how the lower level is found: 'sigma' or 'flow'

    weak_order = 1

    def __post_init__(self) -> None:
        if self.down not in ("sigma", "flow"):
            raise unknown("rule of the lower level", self.down, ("sigma", "flow"))

    @property
    def order(self) -> int:
        return 1 if self.eta == 0 else 0

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        old, data, fresh = weights(_rule, process, x, (t, s), self.down, self.eta)
        x = old * x + data * denoise(x, t).x0
        return renew(x, self.s_noise * fresh, memory)
