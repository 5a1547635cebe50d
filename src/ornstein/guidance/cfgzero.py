"""CFG-Zero*: the unconditional velocity is first fitted to the conditional one, and the noisiest steps stand still.

CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models, Weichen Fan, Amber Yijia Zheng, Raymond A. Yeh,
Ziwei Liu, 2025, arXiv:2503.18886. With the velocities of the linear flow,

    v_w = s* v(x, null) + w (v(x, c) - s* v(x, null)),   s* = <v(x, c), v(x, null)> / |v(x, null)|^2,

s* of each sample by itself, and v_w = 0 in the first steps. Every Gaussian process is that flow in x/(a+s) at the time
s/(a+s), with v = noise - x0: there the rule is applied. Costs two network calls, and none where it stands still.
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

from .layers.pair import inner, null

__all__ = ["CFGZero"]


@dataclass(frozen=True, eq=False)
class CFGZero:
    """s* uncond + scale (cond - s* uncond) in the velocity of the linear flow; with scale 1 all of it is off."""

    scale: float = 1.0  # w; 1 = off, standing still included
    zero: float = 0.0  # part of the flow time s/(a+s), from 1 downwards, with no motion; the publication's 0.04 of the steps
    fit: bool = True  # False: s* = 1, plain classifier-free guidance

    def __post_init__(self) -> None:
        if not 0 <= self.zero < 1:
            raise OrnsteinError(f"CFGZero(zero={self.zero})", "Give a share of the way, from 0 to below 1.")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        if self.scale == 1:
            return denoiser(x, t, cond, clock)
        levels = denoiser.process.at(t, x)
        place, y = levels.flow_time, (x / (levels.a + levels.s)).to(x.dtype)
        still = place > 1 - self.zero
        if self.zero and bool(still.all()):
            return Prediction(x, levels, "x0", y)
        said = denoiser(x, t, cond, clock)
        good, weak = _velocity(said), _velocity(null(denoiser, x, t, cond, clock))
        if self.fit:
            weak = weak * (inner(good, weak) / inner(weak, weak).clamp_min(1e-12)).to(weak)
        value = y - place * (weak + self.scale * (good - weak))
        return said.like("x0", (torch.where(still, y, value) if still.ndim else value).to(x.dtype))


def _velocity(said: Prediction) -> Tensor:
    """Of the linear flow, whatever the process: noise - x0."""
    return said.noise - said.x0
