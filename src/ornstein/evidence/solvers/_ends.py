"""Samples of the common mixture from a start that is right or too wide, on each process's customary grid."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.evidence import Row

from ._ground import DIMS, GRIDS, SEEDS, ground, wasserstein

METRIC = "sliced Wasserstein distance to the data (lower)"


def ends(kind: str, solver: str, process: str, calls: int, stretch: float = 1.0, per_step: int = 1,
         count: int = 400) -> Row:  # fmt: skip
    """Distance of `count` samples per seed; `stretch` multiplies the starting noise."""
    mixture = ground(process)[0]
    like = torch.empty(SEEDS * count, DIMS)
    start = mixture.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like)) * stretch
    steps, rule = (calls + per_step - 1) // per_step, GRIDS[process]
    part, ids = catalog.build("solvers", solver), torch.arange(len(like)).chunk(SEEDS)
    found = (sample(mixture, start[some], part, steps, rule=rule, ids=some.tolist()) for some in ids)
    name = f"{solver}, {process}" + (f", noise x {stretch}" if stretch != 1 else "")
    return Row(name, kind, METRIC, [wasserstein(x.double()) for x in found], f"{calls} NFE")
