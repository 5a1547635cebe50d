"""Evidence for the optimal grid: one measured on the model against those that are made by rule, at equal steps."""

from __future__ import annotations

from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.solvers._ground import METRIC, below, errors, ground
from ornstein.grids.optimal import Optimal, calibrate

CLAIM = (
    "Measured on 64 trajectories of the mixture, the grid ends nearer the exact solution than even times, Karras' ladder, even "
    "log-SNR and the optimum for Gaussian data at 5, 8 and 11 calls, under DDIM and DPM-Solver++(2M) on the linear flow, "
    "linear VP and EDM."
)
WHERE, SOLVERS, CALLS = ("flow", "vp:schedule=linear", "edm"), ("ddim", "dpmpp2m"), (5, 8, 11)
RULES = {"uniform": "natural", "karras": "equal-cost", "logsnr": "equal-cost", "optimal": "reference"}


def _measured(process: str) -> Optimal:
    return Optimal(calibrate(ground(process)[0], (64, 16), catalog.build("solvers", "dpmpp2m"), seed=5))


def _rows(name: str, kind: str, process: str, rule: object) -> list[Row]:
    return [
        Row(f"{name}, {process}, {s}", kind, METRIC, errors(process, s, n, rule), f"{n} NFE")
        for s in SOLVERS for n in CALLS
    ]  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """Partly where it is nearer than all of them under DDIM, for which it is measured, on linear VP and on EDM."""
    found, ahead = [], {}
    for process in WHERE:
        one = _rows("measured", "method", process, _measured(process))
        found += one
        for name, kind in RULES.items():
            other = _rows("gaussian" if name == "optimal" else name, kind, process, name)
            better = below(one, other)
            ahead[process, "ddim", name], ahead[process, "all", name] = all(better[: len(CALLS)]), all(better)
            found += other
    partly = all(v for (process, solver, _), v in ahead.items() if process != "flow" and solver == "ddim")
    return Evidence(CLAIM, found, verdict(all(ahead.values()), partly))
