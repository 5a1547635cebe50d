"""The ODE and the SDE of a stochastic interpolant: one pair of networks, any amount of diffusion epsilon(t).

Stochastic Interpolants: A Unifying Framework for Flows and Diffusions, Albergo, Boffi, Vanden-Eijnden, 2023,
arXiv:2303.08797 (corollary 2.18: all have the marginals of x_t where b and eta are exact). Going down from t to s:

    dX = (b + (epsilon / gamma) eta) dt + sqrt(2 epsilon) dW,    b = E[dx_t/dt | x_t],   eta = E[z | x_t]

with dW run backwards. Here one step takes Euler's along b and then mixes the noise that eta says is there with fresh
noise, keeping the share k = exp(-(t - s) epsilon / gamma^2), gamma^2 half way: x + (s - t) b - gamma_s (1 - k) eta +
gamma_s sqrt(1 - k^2) w. To first order that is Euler and Maruyama's step; where gamma is 0 it stays finite, and no
epsilon is too large for the step. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process

__all__ = ["InterpolantSDE"]


@dataclass(frozen=True)
class InterpolantSDE:
    """Serves every Gaussian process too, with gamma = s. For two-sided ones the network gives the velocity as
    Output.value and eta as Output.extra['noise']; without diffusion eta is not needed."""

    epsilon: float = 1.0  # strength of the diffusion; 0: the ODE, by Euler's method
    law: str = "gamma"  # epsilon(t) = epsilon gamma(t), which vanishes at the ends; or 'constant', as in the paper

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise OrnsteinError(f"epsilon={self.epsilon} is negative", "Give 0 for the ODE, or more.")
        if self.law not in ("gamma", "constant"):
            raise unknown("law of epsilon", self.law, ("gamma", "constant"))

    @property
    def order(self) -> int:
        return 0 if self.epsilon else 1

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to, half = process.at(t, x), process.at(s, x), process.at((t + s) / 2, x)
        said, h = denoise(x, t), to.t - now.t
        moved = x + h * said.velocity
        if not self.epsilon:
            return moved, memory
        rate = self.epsilon / (half.s if self.law == "gamma" else half.s**2)  # epsilon(t) / gamma(t)^2
        kept = (h * rate).exp()
        fresh = memory["noise"].draw(memory["k"], x)
        mixed = (1 - kept**2).sqrt() * fresh - (1 - kept) * _eta(said)
        return moved + to.s * mixed, memory | {"k": memory["k"] + 1}


def _eta(said: Prediction) -> Tensor:
    """E[z | x_t], like x: derived where the end is Gaussian, else from the network's second answer."""
    if not isinstance(said.levels.b, Tensor):
        return said.noise
    extra = getattr(said.output, "extra", {})
    if "noise" not in extra:
        what = "the network says nothing about the noise of a two-sided interpolant"
        raise OrnsteinError(what, "Answer Output(velocity, extra={'noise': eta}), or take epsilon=0.")
    return extra["noise"].to(said.x.dtype)
