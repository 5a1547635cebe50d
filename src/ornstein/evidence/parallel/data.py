"""Evidence for data-parallel sampling: the samples of one process on any number of ranks, against seeds kept by rank.

Ranks are simulated as threads: what is counted is exact, seconds would not be. Two real processes are in the room's tests.
"""

from __future__ import annotations

import torch

from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.parallel.data import DataParallel
from ornstein.parallel.layers.communicator import simulate
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

CLAIM = (
    "Sampling 50 on 1, 2, 3, 4 and 7 ranks gives the samples of one process to 1e-6, no sample twice, and, in the simulator, "
    "sends each rank's finished rows alone; a seed per rank gives other samples on every number of ranks, and numbering from 0 on "
    "every rank gives the same ones over and over."
)
COUNT, DIMS, SIZES = 50, 16, (1, 2, 3, 4, 7)


def run(quick: bool = True) -> Evidence:
    """Three seeds; each figure is the worst over the numbers of ranks (for the baselines over those above 1)."""
    solver = DDIM(eta=0.5)
    same, unlike, distinct, sent = [], {"rank": [], "zero": []}, {"ours": [], "rank": [], "zero": []}, []
    for seed in range(3 if quick else 10):
        mixture = Mixture.random(Flow(), DIMS, 10, 0.4, seed)
        truth = sample(mixture, (COUNT, DIMS), solver, 10, seed=seed)
        off, bytes_, alone = [], [], {"rank": [], "zero": []}
        kinds: dict[str, list[float]] = {"ours": [], "rank": [], "zero": []}
        for size in SIZES:

            def work(c, mixture=mixture, seed=seed):
                return DataParallel(c).sample(mixture, (COUNT, DIMS), solver, 10, seed=seed), c.sent

            got = simulate(size, work)
            off += [(x - truth).abs().max().item() for x, _ in got]
            bytes_.append(sum(b for _, b in got) / max(1, (size - 1) * COUNT * DIMS * 4))
            kinds["ours"].append(_distinct(got[0][0]))
            for name in alone if size > 1 else ():
                x = _by_rank(mixture, solver, seed, size, shift=name == "rank")
                alone[name].append((x - truth).abs().amax(1).gt(1e-6).double().mean().item())
                kinds[name].append(_distinct(x))
        same.append(max(off))
        sent.append(max(bytes_))
        for name in alone:
            unlike[name].append(min(alone[name]))
        for name, values in kinds.items():
            distinct[name].append(min(values))
    exact = max(same) < 1e-6 and min(distinct["ours"]) == 1 and max(sent) == 1
    worse = min(unlike["rank"]) > 0 and max(distinct["zero"]) < 1
    changed, twice = (
        "share of samples that change with the number of ranks (lower)",
        "share of samples that are distinct (higher)",
    )
    rows = [Row("ids shared out", "method", "largest difference to one process (lower)", same),
            Row("ids shared out", "method", changed, [float(v > 1e-6) for v in same]),
            Row("seed + rank", "natural", changed, unlike["rank"]),
            Row("ids from 0 on every rank", "equal-cost", changed, unlike["zero"]),
            Row("ids shared out", "method", twice, distinct["ours"]), Row("seed + rank", "natural", twice, distinct["rank"]),
            Row("ids from 0 on every rank", "equal-cost", twice, distinct["zero"]),
            Row("ids shared out", "method", "bytes sent over those of the finished rows x (ranks - 1)", sent)]  # fmt: skip
    return Evidence(CLAIM, rows, verdict(exact and worse, exact))


def _by_rank(mixture: Mixture, solver: DDIM, seed: int, size: int, shift: bool) -> torch.Tensor:
    """Each rank numbers its own samples from 0, with seed + rank or with one seed for all."""
    shares = [len(range(r, COUNT, size)) for r in range(size)]
    parts = [sample(mixture, (n, DIMS), solver, 10, seed=seed + r * shift) for r, n in enumerate(shares)]
    return torch.cat(parts)


def _distinct(x: torch.Tensor) -> float:
    return len({tuple(row) for row in (x * 1e4).round().tolist()}) / len(x)
