"""Precision by step: a low-precision copy of the network takes the noisy steps, the network itself the rest.

T-Stitch (Pan et al., 2024, arXiv:2402.14167) with a compressed copy as the small model: D = D_low while the step's place is
below `share`, then D. With int8 and both operands as whole numbers a CPU or GPU that multiplies them is faster there;
`late` turns the order round. Costs the copy's memory beside the network's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, Denoises, guide
from ornstein.core.errors import OrnsteinError
from ornstein.guidance.stitch import Stitch

__all__ = ["precision_by_step"]


def precision_by_step(denoiser: Denoiser, share: float = 0.5, low: Any = "int8:mode=dynamic", late: bool = False) -> Denoises:
    """share: of the steps that the copy takes, 0 none, 1 all; low: a part of compression, or its text; late: the copy takes
    the last steps instead. Needs the clock of a sampling loop. The network given is left as it is."""
    if not 0 <= share <= 1:
        raise OrnsteinError(f"share={share} of the steps", "Give a share from 0 to 1.")
    copy = replace(denoiser, backbone=catalog.build("compression", low)(denoiser.backbone))
    first, second = (denoiser, copy) if late else (copy, denoiser)
    return guide(second, Stitch((first,), (1 - share if late else share,)))
