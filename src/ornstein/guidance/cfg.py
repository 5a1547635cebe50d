"""Classifier-free guidance: away from the unconditional answer, through the conditional one, and beyond.

Classifier-Free Diffusion Guidance, Jonathan Ho, Tim Salimans, 2022, arXiv:2207.12598 (eq. 6, with w = scale - 1): eps
= eps(x, null) + scale (eps(x, c) - eps(x, null)). Interval: Applying Guidance in a Limited Interval Improves Sample
and Distribution Quality in Diffusion Models, Kynkaanniemi et al., 2024, arXiv:2404.07724. Costs two network calls
inside the interval and one outside. It does not sample p(x) p(c|x)^scale, nor any law that is known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import gather

from .layers.contrast import ALWAYS, branch, check_interval, contrast

__all__ = ["CFG"]


@dataclass(frozen=True, eq=False)
class CFG:
    """uncond + scale (cond - uncond). Branches on the clock: 'cond' as it came, and 'uncond' or 'negative'."""

    scale: float = 1.0  # 1 = off, 0 = unconditional; the publication's w is scale - 1
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s) = sigma/(1+sigma), (low, high]: 0 data, 1 noise
    negative: Any = None  # condition of one row to move away from; None: the model's own null condition

    def __post_init__(self) -> None:
        check_interval(self.interval)
        for name, value in (self.negative or {}).items():
            if isinstance(value, Tensor) and len(value) != 1:
                raise OrnsteinError(
                    f"the negative condition's '{name}' has {len(value)} rows", "Give one row for all samples."
                )

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        if self.scale == 1:
            return said
        if cond is None:
            raise OrnsteinError("classifier-free guidance has no condition to follow", "Give cond=..., or scale=1.")

        def ask(x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
            return denoiser(
                x,
                t,
                self._weak(denoiser, cond, len(x)),
                branch(clock, "uncond" if self.negative is None else "negative"),
            )

        return contrast(said, ask, self.scale, self.interval, t, cond, clock)

    def _weak(self, denoiser: Denoises, cond: Any, batch: int) -> Any:
        if self.negative is None:
            return denoiser.unconditional(cond, batch)
        return gather(self.negative, torch.zeros(batch, dtype=torch.long), 1)
