"""The common ground of the solvers' evidence: one mixture, exact ends of its trajectories, and distances to them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture

SEEDS, ROWS, DIMS = 5, 48, 16
GRIDS = {"flow": "uniform", "vp": "uniform", "vp:schedule=linear": "uniform", "edm": "karras"}  # each one's customary
BOTH = {"heun": 2}  # network calls per step, where it is not one (the last step has one)


@cache
def ground(process: str) -> tuple[Mixture, Tensor, Tensor]:
    """The mixture under the process, starts x_T and exact ends x_0, each float64 [SEEDS * ROWS, DIMS]."""
    mixture = Mixture.random(catalog.build("processes", process), dims=DIMS)
    like = torch.empty(SEEDS * ROWS, DIMS, dtype=torch.float64)
    start = mixture.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like))
    return mixture, start, mixture.exact(start, steps=300)


def run(process: str, solver: Any, nfe: int, rule: str | None = None) -> Tensor:
    """The ends of a solver given `nfe` network calls, [SEEDS * ROWS, DIMS]."""
    mixture, start, _ = ground(process)
    steps = (nfe + 1) // BOTH.get(solver, 1)
    return sample(mixture, start, catalog.build("solvers", solver), steps, rule=rule or GRIDS[process], dtype=torch.float64)


def errors(process: str, solver: Any, nfe: int, rule: str | None = None) -> list[float]:
    """Root mean square distance to the exact ends, per seed."""
    gap = run(process, solver, nfe, rule) - ground(process)[2]
    return gap.square().reshape(SEEDS, -1).mean(1).sqrt().tolist()


def wasserstein(process: str, ends: Tensor) -> list[float]:
    """Sliced Wasserstein-1 distance over 64 directions between the ends and as many draws of the data, per seed."""
    mixture = ground(process)[0]
    way = torch.randn(DIMS, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    way = way / way.norm(dim=0)
    found = []
    for seed, part in enumerate(ends.chunk(SEEDS)):
        data = mixture.sample(len(part), seed=seed)
        found.append(((part @ way).sort(0)[0] - (data @ way).sort(0)[0]).abs().mean().item())
    return found
