"""PFGM++: EDM's process with the heavy-tailed noise of an electric field in N + D dimensions; D = inf is EDM.

PFGM++: Unlocking the Potential of Physics-Inspired Generative Models, Yilun Xu, Ziming Liu, Yonglong Tian, Shangyuan
Tong, Max Tegmark, Tommi Jaakkola, 2023, arXiv:2302.04265 (eq. 5: the kernel; section 4: r = sigma sqrt(D)).

    p_r(x | y) ~ (|x - y|^2 + r^2)^(-(N + D) / 2):   x = y + R u,   R = r sqrt(B / (1 - B)),   B ~ Beta(N/2, D/2)

for N numbers per sample and u a uniform direction: Student's t of D degrees of freedom and scale sigma. Sampling is
EDM's own ODE dx/dsigma = (x - D(x, sigma)) / sigma with EDM's grid, network, weight and law of sigma (the transfer of
section 4). R is got from the Gaussian noise given: R / sigma has the quantile that |noise| has, so that no further
random number is needed and the noise changes smoothly into EDM's as D grows. Costs a table per (N, D), made once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process

__all__ = ["PFGMpp"]


@dataclass(frozen=True)
class PFGMpp(Process):
    """a = 1, s = t, and noise of the kernel. Train with a target of x0: the loss does not see how the noise was bent."""

    D: float = math.inf  # extra dimensions, 1 (PFGM) and up; 128 to 2048 are the paper's best; inf: EDM, bit for bit
    t_min: float = 0.002  # sigma_min
    t_max: float = 80.0  # sigma_max

    def __post_init__(self) -> None:
        if not self.D >= 1:
            raise OrnsteinError(f"D={self.D} extra dimensions", "Give 1 or more; math.inf is EDM.")

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return torch.ones_like(t), t, torch.zeros_like(t), torch.ones_like(t)

    def time(self, logsnr: Tensor) -> Tensor:
        return torch.exp(-logsnr / 2)

    def kernel(self, noise: Tensor) -> Tensor:
        """Gaussian noise [B, ...] bent to the kernel's at sigma = 1: its direction, and the norm of the same quantile."""
        if self.D == math.inf:
            return noise
        rows = noise.flatten(1).double()
        low, step, table = _stretch(rows.shape[1], float(self.D))
        table = table.to(rows.device)
        place = ((rows.square().sum(1).log() - low) / step).clamp(0, len(table) - 1.001)
        i = place.long()
        log_scale = torch.lerp(table[i], table[i + 1], place - i)
        return (rows * log_scale.exp()[:, None]).reshape(noise.shape).to(noise.dtype)

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """x_t from data, Gaussian noise (same shape) and time. There is no end point: y must be None."""
        if y is not None:
            raise OrnsteinError("PFGM++ has no end point y", "Leave it out.")
        return super().corrupt(x0, self.kernel(noise), t)

    def prior(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The kernel about 0 at r_max = sigma_max sqrt(D)."""
        return super().prior(self.kernel(noise), y)


@lru_cache(maxsize=64)
def _stretch(N: int, D: float) -> tuple[float, float, Tensor]:
    """log(R / |noise|) over log |noise|^2 at even places: (first place, their distance, float64 [places])."""
    u, below_u, above_u = _law(N, math.inf)
    v, below_v, above_v = _law(N, D)
    low = np.interp(below_u, below_v, v)  # the same share below ...
    high = np.interp(-above_u, -above_v, v)  # ... and, where that is nearly all, the same share above
    to = np.where(below_u < math.log(0.5), low, high)
    return float(u[0]), float(u[1] - u[0]), torch.from_numpy((to - u) / 2)


def _law(N: int, D: float, places: int = 40001) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v = log (R / sigma)^2, the log of the share below each v, and above it. Its density is e^(N v / 2) times
    (1 + e^v / D)^(-(N + D) / 2), or e^(-e^v / 2) for D = inf; the mode is log N for every D."""

    def log_density(v: np.ndarray) -> np.ndarray:
        tail = np.exp(v) / 2 if D == math.inf else (N + D) / 2 * np.log1p(np.exp(v) / D)
        return N / 2 * v - tail

    mode, reach = math.log(N), 1e-3 * 1.3 ** np.arange(50)
    top = log_density(np.array(mode))
    left, right = (reach[np.argmax(top - log_density(mode + sign * reach) > 45)] for sign in (-1, 1))
    v = np.linspace(mode - left, mode + right, places)
    p = np.exp(np.maximum(log_density(v) - top, -200))
    below = np.cumsum(p) - p / 2  # the trapezoidal rule, which is as good as exact on such a bell
    return v, np.log(below / p.sum()), np.log((np.cumsum(p[::-1]) - p[::-1] / 2)[::-1] / p.sum())
