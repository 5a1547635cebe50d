"""Stochastic interpolants: a bridge between any two laws, of which diffusion and flow are the case with a Gaussian end.

Stochastic Interpolants: A Unifying Framework for Flows and Diffusions, Michael S. Albergo, Nicholas M. Boffi, Eric
Vanden-Eijnden, 2023, arXiv:2303.08797 (definition 1, one-sided: section 3.2; schedules: tables of section 4). Their
time runs from x_0 to x_1; here t = 0 is the data and t = 1 the other end, which the paper's symmetry allows.

    one-sided   x_t = alpha(t) x_0 + beta(t) z                       two-sided   x_t = alpha(t) x_0 + beta(t) y + gamma(t) z
    velocity    b = E[dx_t/dt | x_t],      eta = E[z | x_t],         score = -eta / gamma

    linear                alpha = 1 - t,            beta = t
    trigonometric         alpha = cos(pi t / 2),    beta = sin(pi t / 2)       (the GVP path of SiT)
    encoding-decoding     alpha = cos^2(pi t) up to t = 1/2, then beta = cos^2(pi t): by way of pure noise in the middle

Costs nothing. A network for a two-sided process is told t, Denoiser(time='t'): its SNR is not a function that falls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.process import Process, pick

__all__ = ["Interpolant", "GAMMAS", "SCHEDULES"]

SCHEDULES = ("linear", "trigonometric", "encoding-decoding")
GAMMAS = ("none", "root", "parabola", "sine")
LEAST = 1e-9  # least gamma in the slope of 'root', which has none at the ends


@dataclass(frozen=True)
class Interpolant(Process):
    """gamma = 'none': between data and Gaussian noise. Else between data and an end point y, with `gamma` noise between.

    gamma(t): 'root' sqrt(2 t (1 - t)), 'parabola' t (1 - t), 'sine' sin^2(pi t), times `width`.
    """

    schedule: str = "trigonometric"
    gamma: str = "none"
    width: float = 1.0  # factor of gamma, in units of the data
    t_min: float = 1e-3  # smallest time at which the network is asked
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule of the interpolant", self.schedule, SCHEDULES)
        if self.gamma not in GAMMAS:
            raise unknown("gamma of the interpolant", self.gamma, GAMMAS)
        if not self.width > 0:
            raise OrnsteinError(f"width={self.width} of the interpolant is not positive", "Give more than 0.")
        if self.width != 1 and not self.two_sided:
            raise OrnsteinError("a one-sided interpolant has no gamma to widen", "Leave width at 1, or choose a gamma.")

    @property
    def two_sided(self) -> bool:
        """Whether there is an end point y."""
        return self.gamma != "none"

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        """(alpha, beta, derivatives), or (alpha, gamma, derivatives, beta, its derivative) with an end point."""
        if not self.two_sided:
            return self._one_sided(t)
        a, b, da, db = self._halves(t) if self.schedule == "encoding-decoding" else self._one_sided(t)
        if self.gamma == "root":
            g = (2 * t * (1 - t)).clamp_min(0).sqrt()
            dg = (1 - 2 * t) / g.clamp_min(LEAST)
        elif self.gamma == "parabola":
            g, dg = t * (1 - t), 1 - 2 * t
        else:
            g, dg = (math.pi * t).sin() ** 2, math.pi * (2 * math.pi * t).sin()
        return a, self.width * g, da, self.width * dg, b, db

    def _one_sided(self, t: Tensor) -> tuple[Tensor, ...]:
        if self.schedule == "linear":
            return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
        q = math.pi / 2
        c, s = (q * t).cos(), (q * t).sin()
        if self.schedule == "trigonometric":
            return c, s, -q * s, q * c
        return c**2, s**2, -2 * q * s * c, 2 * q * s * c  # its encoding half, drawn out over the whole of [0, 1]

    def _halves(self, t: Tensor) -> tuple[Tensor, ...]:
        """Encoding while t < 1/2, decoding after it."""
        c, dc = (math.pi * t).cos() ** 2, -math.pi * (2 * math.pi * t).sin()
        zero, first = torch.zeros_like(t), t < 0.5
        return pick(first, c, zero), pick(first, zero, c), pick(first, dc, zero), pick(first, zero, dc)

    def time(self, logsnr: Tensor) -> Tensor:
        if self.two_sided:
            what = "a two-sided interpolant has no time for a signal-to-noise ratio: it rises again towards y"
            raise OrnsteinError(what, "Use a grid in t, such as 'uniform', and Denoiser(time='t').")
        sigma = torch.exp(-logsnr / 2)
        if self.schedule == "linear":
            return sigma / (1 + sigma)
        return (sigma if self.schedule == "trigonometric" else sigma.sqrt()).atan() * 2 / math.pi

    def prior(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The start of sampling: the noise, or the end point itself."""
        if self.two_sided and y is None:
            raise OrnsteinError("a two-sided interpolant starts at an end point", "Give sample(...) the y as its start.")
        return super().prior(noise, y)
