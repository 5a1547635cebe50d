"""The common ground of the grids' evidence: the solvers' mixture, its exact ends, and the same calls for every grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.evidence import Row
from ornstein.evidence.solvers._ground import METRIC, ROWS, SEEDS, below, ground

__all__ = ["CALLS", "SOLVERS", "ahead", "rows"]

SOLVERS = ("ddim", "dpmpp2m", "heun")  # first order; second, multistep; second, two calls a step
CALLS = (11, 21, 41)


def errors(rule: str, process: str, solver: str, calls: int) -> list[float]:
    """Root mean square distance to the exact end over the axes; per seed the median of 32 trajectories."""
    mixture, start, exact = ground(process)
    steps = (calls + 1) // 2 if solver == "heun" else calls  # Heun's last step asks once
    ends = sample(mixture, start, catalog.build("solvers", solver), steps, rule=rule, dtype=torch.float64)
    return (ends - exact).square().mean(1).sqrt().reshape(SEEDS, ROWS).median(1)[0].tolist()


def rows(kind: str, rule: str, processes: Sequence[str], solvers: Sequence[str] = SOLVERS) -> list[Row]:
    """One row per process, solver and number of calls, in that order; five seeds of 32 trajectories each."""
    return [
        Row(f"{rule}, {p}, {s}", kind, METRIC, errors(rule, p, s, n), f"{n} NFE")
        for p in processes for s in solvers for n in CALLS
    ]  # fmt: skip


def ahead(one: Sequence[Row], other: Sequence[Row], word: str = "") -> bool:
    """Whether every row whose name has the word is below the row opposite by more than two standard errors."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if word in a.name.split(", ") or not word]
    return bool(pairs) and all(below(*zip(*pairs)))
