"""Evidence for DDIM: few steps against ancestral sampling, and against Euler's method at equal calls."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.testbeds import Mixture

from ._ground import DIMS, SEEDS, below, ground, rows, wasserstein

CLAIM = (
    "With 5, 10 and 20 calls on both variance-preserving schedules DDIM's samples are nearer the data than those "
    "of ancestral sampling, and its error to the exact solution is below that of Euler's method."
)
METRIC = "sliced Wasserstein distance to the data (lower)"


def distances(mixture: Mixture, solver: str, calls: int, stretch: float = 1.0, count: int = 800) -> list[float]:
    """Distance of `count` samples to as many data, per seed; `stretch` multiplies the starting noise. Seed by seed, which
    the processor's cache holds."""
    like = torch.empty(SEEDS * count, DIMS, dtype=torch.float64)
    start = mixture.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like)) * stretch
    part, ids = catalog.build("solvers", solver), torch.arange(len(like)).chunk(SEEDS)
    found = (sample(mixture, start[some].float(), part, calls, ids=some.tolist()) for some in ids)
    return [wasserstein(x.double()) for x in found]


def run(quick: bool = True) -> Evidence:
    """Five seeds: 800 samples each for the distance to the data, 32 trajectories each for the error."""
    vp, calls = ("vp", "vp:schedule=linear"), (5, 10, 20)

    def law(kind: str, solver: str) -> list[Row]:
        return [
            Row(f"{solver}, {p}", kind, METRIC, distances(ground(p)[0], solver, n), f"{n} NFE")
            for p in vp
            for n in calls
        ]

    one, ancestral = law("method", "ddim"), law("natural", "ddim:eta=1")
    path, euler = rows("method", "ddim", vp, (11, 21, 41)), rows("equal-cost", "euler", vp, (11, 21, 41))
    law_won, path_won = below(one, ancestral), below(path, euler)
    floor = [wasserstein(ground("vp")[0].sample(800, seed=50 + k)) for k in range(SEEDS)]
    table = [*one, *ancestral, Row("data against data", "floor", METRIC, floor), *path, *euler]
    return Evidence(CLAIM, table, verdict(all(law_won) and all(path_won), sum(law_won) >= 4))
