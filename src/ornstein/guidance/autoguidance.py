"""Autoguidance: away from a worse version of the same model.

Guiding a Diffusion Model with a Bad Version of Itself, Tero Karras, Miika Aittala, Tuomas Kynkaanniemi, Jaakko
Lehtinen, Timo Aila, Samuli Laine, 2024, arXiv:2406.02507 (eq. 3): D_w = w D_1(x; c) + (1 - w) D_0(x; c), where D_0 is
smaller or less trained, on the same data and condition. Costs one call of each inside the interval, one of D_1
outside. It helps where the two err in the same direction, D_0 further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.contrast import ALWAYS, branch, check_interval, contrast

__all__ = ["Autoguidance"]


@dataclass(frozen=True, eq=False)
class Autoguidance:
    """bad + scale (good - bad) with one condition for both. Branches on the clock: 'cond' as it came, and 'bad'."""

    bad: Denoises  # the worse denoiser; may predict another kind, but over the same process
    scale: float = 1.0  # 1 = off; the publication's w
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s) = sigma/(1+sigma), (low, high]: 0 data, 1 noise

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...] or None."""
        said = denoiser(x, t, cond, clock)
        if self.scale == 1:
            return said
        if self.bad.process != denoiser.process:
            raise OrnsteinError(f"the bad model lives on {self.bad.process}, the good one on {denoiser.process}",
                                "Guide with a model of the same process.")  # fmt: skip

        def ask(x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
            return self.bad(x, t, cond, branch(clock, "bad"))

        return contrast(said, ask, self.scale, self.interval, t, cond, clock)
