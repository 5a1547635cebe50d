"""The law that a solver ends in on data that are one Gaussian, without chance.

There every step is affine in x and in its noise, so that the end of a run is c + sum_k w_k xi_k with weights that a batch
of unit vectors reads off: mean and variance after n steps are known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.process import Process, grid
from ornstein.evidence import Row
from ornstein.testbeds import Mixture

GAUSSIANS = ((0.0, 0.3), (0.5, 0.5), (-0.3, 0.8), (0.7, 0.2), (-0.6, 1.2))  # mean and standard deviation: the 'seeds'
METRIC = "relative error of the standard deviation, five Gaussians (lower)"


class Probe:
    """A noise source whose k-th draw is a unit in row k + 2, and nothing in the others."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}

    def draw(self, key: int, like: Tensor) -> Tensor:
        unit = torch.zeros_like(like)
        unit[self.rows.setdefault(key, len(self.rows) + 2)] = 1.0
        return unit


def law(solver: Any, process: Process, times: Sequence[float], mean: float, std: float, shift: float = 0.0,
        wide: float = 1.0) -> tuple[float, float]:  # fmt: skip
    """Mean and standard deviation of the end on data N(mean, std^2), started from the marginal at the first time, its mean
    moved by a * shift and its deviation made `wide` times as large. At most two draws a step."""
    one = Mixture(torch.full((1, 1), mean), torch.tensor(std, dtype=torch.float64), process)
    x = torch.zeros(2 * len(times) + 4, 1, dtype=torch.float64)
    L = process.at(times[0], x)
    x += L.a * (mean + shift)
    x[1] += wide * (L.a**2 * std**2 + L.s**2).sqrt()  # row 0 has no noise at all, row 1 that of the start
    memory = solver.start(x, Probe())
    steps = torch.tensor(times, dtype=torch.float64)
    for t, s in zip(steps[:-1], steps[1:], strict=True):
        x, memory = solver.step(one, process, x, t, s, memory)
    return x[0].item(), (x[1:] - x[0]).square().sum().sqrt().item()


def row(kind: str, spec: str, process: str, calls: int, rule: str = "uniform", per_step: int = 1) -> Row:
    """The error of the law at the data, given so many calls from the prior, one value per Gaussian."""
    made, solver = catalog.build("processes", process), catalog.build("solvers", spec)
    times = grid(made, (calls + per_step - 1) // per_step, rule).tolist()
    values = [abs(law(solver, made, times, m, s)[1] / s - 1) for m, s in GAUSSIANS]
    return Row(f"{spec}, {process}", kind, METRIC, values, f"{calls} NFE")


def ahead(one: Row, other: Row) -> bool:
    """Smaller for at least four of the five Gaussians, and in the mean."""
    return one.mean < other.mean and sum(a < b for a, b in zip(one.values, other.values, strict=True)) >= 4
