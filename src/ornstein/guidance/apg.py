"""Adaptive projected guidance: the part of the difference that lies along the answer is turned down, as it saturates.

Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models, Seyedmorteza Sadat, Otmar Hilliges,
Romann M. Weber, 2024, arXiv:2410.02416. With D the clean sample that is predicted,

    Delta = D(x, c) - D(x, null),   Delta_bar = Delta + beta Delta_bar',   Delta_r = Delta_bar min(1, r / |Delta_bar|),
    D_w = D(x, c) + (w - 1) (Delta_orth + eta Delta_par),   Delta_par = <Delta_r, D_c> / <D_c, D_c> D_c,

Delta_bar' being that of the evaluation before. Costs two network calls; with momentum one tensor per sample, kept in the
memory of the run. Outside of a run there is no momentum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core import seam
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.pair import inner, null

__all__ = ["APG"]


@dataclass(frozen=True, eq=False)
class APG:
    """cond + (scale - 1) (orthogonal + eta parallel), of each sample by itself and in terms of x0."""

    scale: float = 1.0  # w; 1 = off
    eta: float = 0.0  # share of the parallel part that stays; 1: plain classifier-free guidance. The publication's 0
    threshold: float = math.inf  # r, the largest norm of the difference, of all numbers of a sample; paper: 2.5 to 15
    momentum: float = 0.0  # beta; the publication's -0.5 and -0.75 push away from earlier differences; 0: no memory

    def __post_init__(self) -> None:
        if self.threshold <= 0 or abs(self.momentum) >= 1:
            raise OrnsteinError(f"APG(threshold={self.threshold}, momentum={self.momentum})",
                                "The threshold is above 0, the momentum between -1 and 1.")  # fmt: skip

    def start(self) -> dict[str, Any]:
        return {"gap": None}

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        if self.scale == 1:
            return said
        good = said.x0
        gap = self._followed(good - null(denoiser, x, t, cond, clock).x0, clock)
        if self.threshold < math.inf:
            gap = gap * (self.threshold / inner(gap, gap).sqrt().clamp_min(1e-12)).clamp_max(1).to(gap)
        if self.eta != 1:
            share = inner(gap, good) / inner(good, good).clamp_min(1e-12)
            gap = gap + (self.eta - 1) * share.to(gap) * good
        return said.like("x0", good + (self.scale - 1) * gap)

    def _followed(self, gap: Tensor, clock: Clock) -> Tensor:
        """The difference with its momentum, remembered for the next evaluation of these samples on this branch."""
        run = seam.current()
        if self.momentum == 0 or run is None or not clock.ids:
            return gap
        memory = run.memory(self, clock)
        before = memory["gap"]
        if before is not None and before.shape == gap.shape:
            gap = gap + self.momentum * before
        memory["gap"] = gap
        return gap
