"""DDNM: the part of x0hat that was measured is set to the measurement, the null space is left to the model.

Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, Yinhuai Wang, Jiwen Yu, Jian Zhang, 2022,
arXiv:2212.00490 (eq. 13): x0' = A^+ y + (I - A^+ A) x0hat, with noise-free y = A x. The noise is then what x and x0'
leave over, as in the publication's step (eq. 14). Costs one A and one A^+ per network call. The result agrees with y
exactly; its null space is drawn from an approximation of the posterior, since x_t is never told how well it fits y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.operators import Operator

__all__ = ["DDNM"]

KEY = "measurement"


@dataclass(frozen=True, eq=False)
class DDNM:
    """Put it outermost of all guidance. The wrapped denoiser gets the condition without the measurement."""

    operator: Operator  # A with forward and pinv
    strength: float = 1.0  # share of the measured part that is replaced; 1 as published, 0 off

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise OrnsteinError(f"strength={self.strength} is not within 0 and 1", "1 is the published projection.")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; cond: dict with 'measurement' [B, ...] of the operator's output shape, and what the model
        itself takes."""
        if not isinstance(cond, dict) or KEY not in cond:
            raise OrnsteinError(f"the condition of branch '{clock.branch}' has no '{KEY}'",
                                "Give cond={'measurement': y}, and put DDNM outermost of all guidance.")  # fmt: skip
        said = denoiser(x, t, {k: v for k, v in cond.items() if k != KEY} or None, clock)
        if self.strength == 0:
            return said
        off = self.operator.forward(said.x0) - cond[KEY].to(x)
        return said.like("x0", said.x0 - self.strength * self.operator.pinv(off))
