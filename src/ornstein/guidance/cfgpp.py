"""CFG++: the guided clean sample, noised again with the unconditional noise.

CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models, Hyungjin Chung, Jeongsol Kim, Geon Yeong Park,
Hyelin Nam, Jong Chul Ye, 2024, arXiv:2406.08070. With D = x0(x, c) - x0(x, null), a DDIM step is

    x_s = a_s (x0(x, null) + lambda D) + s_s noise(x, null).

Plain guidance of scale w answers x0(x, null) + w D, with the noise noise(x, null) - (a_t/s_t) w D; a DDIM step of it adds
w D (a_s - s_s a_t/s_t) to the unconditional one. Both are the same step at

    w = lambda / (1 - kept a_t / (a_s s_t)),   kept = s_s without fresh noise: w = lambda / (1 - sigma_s/sigma_t),

sigma = s/a. So this is plain guidance whose scale follows the step's length: exactly CFG++ under DDIM (any eta, told here)
and under every solver that is DDIM, Euler in x/a among them; under a multistep solver of one call per step it is that
schedule of scales and no more. For lambda > 0 the scale grows without bound as steps grow in number: lambda belongs to a
number of steps. Costs two network calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.ahead import Rule, end_of_step
from .layers.pair import null

__all__ = ["CFGpp"]


@dataclass(frozen=True, eq=False)
class CFGpp:
    """uncond + w (cond - uncond), w as above. Branches: 'cond' as it came, and 'null'."""

    strength: float | None = None  # the publication's lambda, 0 (unconditional) to 1; None: off
    rule: Rule = "uniform"  # the run's own time grid, from which the step's end is known; another is refused
    eta: float = 0.0  # of the DDIM solver: its share of the ancestral noise

    def __post_init__(self) -> None:
        if (self.strength is not None and self.strength < 0) or not 0 <= self.eta <= 1:
            raise OrnsteinError(f"CFGpp(strength={self.strength}, eta={self.eta})",
                                "Give a strength of 0 or more, and an eta from 0 to 1.")  # fmt: skip

    def predict(self, denoiser: Denoises, x: Any, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: []; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        if self.strength is None:
            return said
        weak = null(denoiser, x, t, cond, clock).get(said.kind)
        scale = self.strength * self.growth(denoiser, x, t, clock)
        return said.like(said.kind, weak + scale * (said.value - weak))

    def growth(self, denoiser: Denoises, x: Any, t: Any, clock: Clock) -> float:
        """w / lambda of the coming step, 1 or more."""
        process = denoiser.process
        now, to = process.at(t, x), process.at(end_of_step(process, clock, t, self.rule), x)
        ratio = float(to.s * now.a / (to.a * now.s))  # sigma_s / sigma_t
        return 1 / (1 - ratio * (1 - self.eta**2 * (1 - ratio**2)) ** 0.5)
