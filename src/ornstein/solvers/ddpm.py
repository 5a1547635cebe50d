"""Ancestral sampling: each step draws from the posterior q(x_s | x_t, x0) of the Markov chain, at the predicted x0.

Denoising Diffusion Probabilistic Models, Ho, Jain, Abbeel, 2020, arXiv:2006.11239 (eq. 6 and 7, algorithm 2), for any
two times of any Gaussian process. With q(x_t | x_s) = N(A x_s, b), A = a_t/a_s and b = s_t^2 - A^2 s_s^2 (their
beta_t), the mean is (A s_s^2 x_t + a_s b x0) / s_t^2. 'range': Improved Denoising Diffusion Probabilistic Models, Nichol,
Dhariwal, 2021, arXiv:2102.09672 (eq. 15); 'optimal': Analytic-DPM, Bao, Li, Zhu, Zhang, 2022, arXiv:2201.06503 (theorem
1: the small variance and that of x0 given x_t, passed through the mean). Costs one network call per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process, posterior_weights

from .layers.stochastic import renew, weights

__all__ = ["DDPM", "left_over"]

VARIANCES = ("small", "large", "range", "optimal")


def _rule(levels: tuple[Levels, ...]) -> tuple[Tensor, ...]:
    """Weights of x_t and x0, and the small and the large variance."""
    now, to = levels
    old, data, small, b = posterior_weights(now, to)
    large = b * (to.a**2 + to.s**2) / (now.a**2 + now.s**2)  # Cov(x_s | x_t) for unit data: beta_t where a^2 + s^2 = 1
    return old, data, small, large * (to.s > 0)


@dataclass(frozen=True)
class DDPM:
    """'small' is right for data that are one point, 'large' for data that are N(0, 1), 'optimal' for any Gaussian."""

    variance: str = "small"  # of section 3.2; 'range' asks the network for the place between small and large
    left: Callable[[Tensor], Tensor] | None = None  # 'optimal': logSNR -> mean variance of x0 given x_t, per number

    order = 0
    weak_order = 1

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise unknown("variance", self.variance, VARIANCES)
        if (self.variance == "optimal") != (self.left is not None):
            raise OrnsteinError("variance 'optimal' and `left` go together", "Give left=left_over(denoiser, data, times).")

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        old, data, small, large = weights(_rule, process, x, (t, s))
        said = denoise(x, t)
        spread = {"small": small, "large": large}.get(self.variance)
        if self.variance == "optimal":  # the data's own end has no noise to draw
            spread = (small + data**2 * self.left(said.levels.logsnr).clamp_min(0)) * (process.at(s, x).s > 0)
        elif spread is None:
            spread = self._ranged(said, small, large)
        fresh = max(spread, 0.0) ** 0.5 if isinstance(spread, float) else spread.clamp_min(0).sqrt()
        return renew(old * x + data * said.x0, fresh, memory)

    def _ranged(self, said: Prediction, small: float | Tensor, large: float | Tensor) -> Tensor:
        """exp(v log large + (1 - v) log small) with v = (extra + 1) / 2, per number."""
        extra = said.output.extra if said.output is not None else {}
        if "variance" not in extra:
            raise OrnsteinError("the network gave no Output.extra['variance']", "It must, in [-1, 1], for 'range'.")
        v = (extra["variance"].to(said.x.dtype) + 1) / 2
        small, large = (torch.as_tensor(w, dtype=said.x.dtype, device=v.device) for w in (small, large))
        return large.clamp_min(1e-30) ** v * small.clamp_min(1e-30) ** (1 - v) * (small > 0)


def left_over(denoiser: Callable, data: Tensor, times: Tensor, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Measures `left` as the denoiser's mean squared error at each of `times` [K], on data [N, ...] and noise of its own.

    In between it is a straight line in logSNR, beyond them a constant. Noise powers of the publication, Gamma = E |noise
    predicted|^2 / D, are the same thing: left = (s/a)^2 (1 - Gamma)."""
    noise = NoiseSource.of(seed, range(len(data)))
    known = []
    for k, t in enumerate(times.tolist()):
        eps = noise.draw(k, data)
        said = denoiser(denoiser.process.corrupt(data, eps, t), t)
        known.append((float(said.levels.logsnr), float((said.x0 - data).square().mean())))
    places, values = torch.tensor(sorted(known), dtype=torch.float64).T.contiguous()

    def left(logsnr: Tensor) -> Tensor:
        u = logsnr.to(torch.float64).cpu().clamp(places[0], places[-1])
        j = torch.searchsorted(places, u.contiguous()).clamp(1, len(places) - 1)
        part = (u - places[j - 1]) / (places[j] - places[j - 1])
        return (values[j - 1] + part * (values[j] - values[j - 1])).to(logsnr)

    return left
