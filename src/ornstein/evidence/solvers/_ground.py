"""The common ground of the solvers' evidence: one mixture, exact ends of its trajectories, and distances to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.evidence import Row
from ornstein.testbeds import Mixture

SEEDS, ROWS, DIMS = 5, 32, 16
GRIDS = {"flow": "uniform", "vp": "uniform", "vp:schedule=linear": "uniform", "edm": "karras"}  # each one's customary
BOTH = {"heun": 2}  # network calls per step, where it is not one (the last step has one)

METRIC = "median distance to the exact end (lower)"


@cache
def ground(process: str) -> tuple[Mixture, Tensor, Tensor]:
    """The mixture under the process, starts x_T and exact ends x_0, each float64 [SEEDS * ROWS, DIMS]."""
    mixture = Mixture.random(catalog.build("processes", process), dims=DIMS)
    like = torch.empty(SEEDS * ROWS, DIMS, dtype=torch.float64)
    start = mixture.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like))
    return mixture, start, mixture.exact(start, steps=200)


def run(process: str, solver: Any, nfe: int, rule: str | None = None) -> Tensor:
    """The ends of a solver given `nfe` network calls, [SEEDS * ROWS, DIMS]."""
    mixture, start, _ = ground(process)
    calls = BOTH.get(solver, 1)
    steps = (nfe + calls - 1) // calls
    return sample(
        mixture, start, catalog.build("solvers", solver), steps, rule=rule or GRIDS[process], dtype=torch.float64
    )


def errors(process: str, solver: Any, nfe: int, rule: str | None = None) -> list[float]:
    """Distance to the exact end per trajectory (root mean square over the axes); per seed the median of 32.

    The median, because a start on the border of two basins ends in the wrong one under any solver now and then.
    """
    gap = run(process, solver, nfe, rule) - ground(process)[2]
    return gap.square().mean(1).sqrt().reshape(SEEDS, ROWS).median(1)[0].tolist()


@cache
def _quantiles(count: int) -> tuple[Tensor, Tensor]:
    """64 directions [DIMS, 64] and `count` quantiles of the data along each, from 16 draws a quantile."""
    way = torch.randn(DIMS, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    way = way / way.norm(dim=0)
    data = ground("vp")[0].sample(16 * count, seed=1) @ way
    return way, data.sort(0)[0].reshape(count, 16, 64).mean(1)


def wasserstein(ends: Tensor) -> float:
    """Sliced Wasserstein-1 distance over 64 directions between ends [N, DIMS] and the data."""
    way, quantiles = _quantiles(len(ends))
    return ((ends @ way).sort(0)[0] - quantiles).abs().mean().item()


def rows(kind: str, solver: str, processes: tuple[str, ...], calls: tuple[int, ...], name: str = "") -> list[Row]:
    """One row per process and number of calls, in that order."""
    return [
        Row(f"{name or solver}, {p}", kind, METRIC, errors(p, solver, n), f"{n} NFE") for p in processes for n in calls
    ]


def below(one: Sequence[Row], other: Sequence[Row]) -> list[bool]:
    """Whether each row is below the row opposite, seed for seed, by more than two standard errors of the difference."""
    found = []
    for a, b in zip(one, other, strict=True):
        gap = torch.tensor(b.values) - torch.tensor(a.values)
        found.append(bool(gap.mean() > 2 * gap.std() / len(gap) ** 0.5))
    return found
