"""DDIM inversion: the deterministic sampler run backwards, from a sample to the noise that would give it; and editing
by it.

Denoising Diffusion Implicit Models, Jiaming Song, Chenlin Meng, Stefano Ermon, 2020, arXiv:2010.02502 (section 4.3).
A sampler's step x_s = a_s x0(x_t, t) + s_s n(x_t, t) is turned round, x_t = x_s + (a_t - a_s) x0 + (s_t - s_s) n, but
x0 and n are wanted at x_t: the plain form takes them at (x_s, s). Corrections iterate the equation at (x_t, t)
towards its fixed point, where the step is undone exactly (ReNoise, Garibi et al., 2024, arXiv:2403.14602). Costs 1 +
corrections calls a step up, one a step down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import Run, running

__all__ = ["Inversion"]


@dataclass(frozen=True)
class Inversion:
    """Invert under one condition, regenerate under another."""

    steps: int = 50  # of the whole grid, up and down
    corrections: int = 0  # fixed-point evaluations per step up; 0 = the plain form
    strength: float = 1.0  # how far up the grid, as a share of its steps; 0 changes nothing
    rule: str | tuple[float, ...] = "uniform"  # time grid

    def __post_init__(self) -> None:
        if self.corrections < 0 or not 0 <= self.strength <= 1:
            raise OrnsteinError(f"corrections={self.corrections}, strength={self.strength}",
                                "Corrections are 0 or more, strength lies in 0 to 1.")  # fmt: skip

    def times(self, denoiser: Denoises, x: Tensor) -> Tensor:
        """The decreasing times that are walked, from strength of the grid to 0."""
        times = grid(denoiser.process, self.steps, self.rule)
        kept = round(self.strength * (len(times) - 1))
        return times[len(times) - 1 - kept :]

    @torch.no_grad()
    def invert(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence | None = None,
               run: Run | None = None) -> Tensor:  # fmt: skip
        """x: data [B, ...] -> the latent at the top of `times`, same shape. run: collects record and plugin memories."""
        with running(run or Run()) as run:
            run.forget(tuple(range(len(x)) if ids is None else ids))
            return self._invert(denoiser, x, cond, ids)

    def _invert(self, denoiser: Denoises, x: Tensor, cond: Any, ids: Sequence | None) -> Tensor:
        process, times = denoiser.process, self.times(denoiser, x)
        ids = tuple(range(len(x))) if ids is None else tuple(ids)
        for k in range(len(times) - 1, 0, -1):
            s, t = times[k], times[k - 1]
            low, high = process.at(s, x), process.at(t, x)
            up = len(times) - 1 - k
            ask = s.clamp_min(process.t_min)
            said = denoiser(x, ask, cond, Clock(up, 0, len(times) - 1, ask, "cond", ids))
            guess = high.a * said.x0 + high.s * said.noise  # eq. 12 of DDIM with t and s exchanged
            for i in range(self.corrections):
                said = denoiser(guess, t, cond, Clock(up, 1 + i, len(times) - 1, t, "cond", ids))
                guess = x + (high.a - low.a) * said.x0 + (high.s - low.s) * said.noise
            x = guess
        return x

    def generate(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence | None = None,
                 run: Run | None = None) -> Tensor:  # fmt: skip
        """The latent at the top of `times` [B, ...] -> data, by DDIM."""
        times = self.times(denoiser, x).tolist()
        if len(times) == 1:
            return x
        return sample(denoiser, x, catalog.build("solvers", "ddim"), rule=times, cond=cond, ids=ids, run=run)

    def edit(self, denoiser: Denoises, x: Tensor, source: Any, target: Any, ids: Sequence | None = None) -> Tensor:
        """Data [B, ...] that was `source` as `target` would have it; source = target gives x back, up to inversion's
        error."""
        return self.generate(denoiser, self.invert(denoiser, x, source, ids), target, ids)
