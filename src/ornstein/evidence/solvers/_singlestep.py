"""Evidence of singlestep solvers: their calls are counted as they are made, and none gets more than the number given."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.evidence import Row
from ornstein.testbeds import Mixture

from ._ground import GRIDS, METRIC, ROWS, SEEDS, ground


def walk(process: str, solver: Any, steps: int, rule: str = "") -> tuple[Tensor, int]:
    """The ends [SEEDS * ROWS, DIMS] of so many steps, and the network calls that they made."""
    mixture, start, _ = ground(process)
    return _walk(mixture, start, solver, steps, rule or GRIDS[process])


def _walk(mixture: Mixture, start: Tensor, solver: Any, steps: int, rule: str) -> tuple[Tensor, int]:
    run, built = Run(), catalog.build("solvers", solver)
    ends = sample(mixture, start, built, steps, rule=rule, dtype=torch.float64, run=run)
    return ends, run.record.calls["evaluations"]


@cache
def steps_for(process: str, solver: str, nfe: int, rule: str) -> int:
    """The most steps that make at most `nfe` calls, counted on one point; tried from what the first two steps need."""
    if "nfe=" in solver:
        return catalog.build("solvers", solver).steps(catalog.build("processes", process))
    one = Mixture(torch.zeros(1, 1), torch.ones(1), catalog.build("processes", process))
    start = torch.zeros(1, 1, dtype=torch.float64)

    @cache
    def calls(steps: int) -> int:
        return _walk(one, start, solver, steps, rule)[1]

    steps = 1 + max(0, nfe - calls(1)) // max(1, calls(2) - calls(1))
    while steps > 1 and calls(steps) > nfe:
        steps -= 1
    while calls(steps + 1) <= nfe:
        steps += 1
    return steps


def gaps(process: str, ends: Tensor) -> list[float]:
    """Distance to the exact end per trajectory (root mean square over the axes); per seed the median of 32."""
    gap = ends - ground(process)[2]
    return gap.square().mean(1).sqrt().reshape(SEEDS, ROWS).median(1)[0].tolist()


def rows(kind: str, solver: str, processes: tuple[str, ...], calls: tuple[int, ...], rule: str = "",
         name: str = "") -> list[Row]:  # fmt: skip
    """One row per process and most calls, in that order; the calls that were made are its cost."""
    found = []
    for process in processes:
        for nfe in calls:
            way = rule or GRIDS[process]
            ends, made = walk(process, solver, steps_for(process, solver, nfe, way), way)
            label = f"{name or solver}, {process}" + (f", {rule}" if rule else "")
            found.append(Row(label, kind, METRIC, gaps(process, ends), f"{made} NFE"))
    return found
