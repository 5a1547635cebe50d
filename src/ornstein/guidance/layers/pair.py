"""The unconditional answer beside the conditional one, and products of samples, for rules that change the difference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .contrast import branch

__all__ = ["inner", "null"]


def null(denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
    """The unconditional answer, on the branch 'null': 'uncond' is that of a classifier-free guidance around this rule."""
    if cond is None:
        raise OrnsteinError("this guidance has no condition to follow", "Give cond=..., or scale=1.")
    return denoiser(x, t, denoiser.unconditional(cond, len(x)), branch(clock, "null"))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample of a and b [B, ...], at least in float32, of shape [B, 1, ...]."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b.to(wide)).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
