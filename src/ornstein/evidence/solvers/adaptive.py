"""Evidence for adaptive steps: one tolerance and no grid, beside fixed steps with as many calls on grids that suit them."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict

from ._ground import METRIC, below
from ._singlestep import gaps, rows, walk

CLAIM = (
    "With no grid at all, at a tolerance of 0.001, adaptive ends nearer the exact solution than DPM-Solver++(2M), Heun "
    "and RK4 of as many calls with customary grids, on the linear flow, VP, VP linear and EDM; and its error differs "
    "between these processes by less than a factor of 1.5."
)
WHERE = ("flow", "vp", "vp:schedule=linear", "edm")


def at(process: str, tolerance: float) -> list[Row]:
    """The method in one interval from the prior to the data, and the solvers of fixed steps with at most its calls."""
    ends, calls = walk(process, f"adaptive:rtol={tolerance},atol={tolerance}", 1, "uniform")
    one = Row(f"adaptive {tolerance}, {process}", "method", METRIC, gaps(process, ends), f"{calls} NFE")
    fixed = (("natural", "dpmpp2m"), ("natural", "heun"), ("equal-cost", "rk4"))
    return [one, *(row for kind, s in fixed for row in rows(kind, s, (process,), (calls,)))]


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; a tolerance of 0.01 is shown, not judged."""
    tight = [at(p, 0.001) for p in WHERE]
    one, multi, heun, rk4 = map(list, zip(*tight))
    means = [row.mean for row in one]
    most = all(below(one, multi)) and all(below(one, heun)) and max(means) < 1.5 * min(means)
    loose = [row for p in WHERE for row in at(p, 0.01)]
    every = [row for found in tight for row in found] + loose
    return Evidence(CLAIM, every, verdict(most and all(below(one, rk4)), most))
