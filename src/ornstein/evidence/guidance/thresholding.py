"""Evidence for thresholding under strong guidance: distance to the exact law of data that lie within [-1, 1]."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence
from ornstein.guidance.cfg import CFG
from ornstein.guidance.thresholding import Thresholding
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

from ._strong import SCALE, strong

CLAIM = ("Of data within [-1, 1] guided at scale 6, dynamic thresholding brings the samples closer to the exact law of their "
         "label than plain guidance at scale 6, and plain guidance of no lower scale, nor within an interval, obeys as much "
         "and lies as close.")  # fmt: skip


def pixels(seed: int) -> Mixture:
    """16 numbers, of which about 1 in 650 is beyond 1; four labels of three Gaussians each."""
    generator = torch.Generator().manual_seed(seed)
    means = 0.8 * torch.rand(12, 16, generator=generator, dtype=torch.float64) - 0.4
    return Mixture(means, torch.tensor(0.25), Flow(), None, torch.arange(12) % 4)


def run(quick: bool = True) -> Evidence:
    methods = {"CFG scale 6, dynamic thresholding": (CFG(SCALE), Thresholding(1.0)),
               "CFG scale 6, static thresholding": (CFG(SCALE), Thresholding(1.0, None))}  # fmt: skip
    return strong(CLAIM, methods, quick, pixels, {"CFG scale 2, dynamic thresholding": (CFG(2.0), Thresholding(1.0))})
