"""A full run that a plugin watches: how accelerations are calibrated."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ornstein.core.loop import Solver, sample
from ornstein.core.seam import Plugin, attach

__all__ = ["watched"]


def watched(watch: Plugin, denoiser: Any, noise: Any, solver: Solver, steps: int, cond: Any, rule: Any, seed: int) -> Tensor:
    """The samples [B, ...] of a run with the plugin on the network inside of `denoiser`, detached afterwards."""
    inner = denoiser
    while hasattr(inner, "denoiser"):
        inner = inner.denoiser
    detach = attach(inner.backbone, watch)
    try:
        return sample(denoiser, noise, solver, steps, cond=cond, rule=rule, seed=seed)
    finally:
        detach()
