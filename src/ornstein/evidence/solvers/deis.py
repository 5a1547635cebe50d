"""Evidence for DEIS: a polynomial in t through past noise predictions, at no further call."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below, rows

VARIANTS = ("points=2", "points=3", "points=2,variable=logrho")  # that `ornstein bench solvers` tries beside the default
CLAIM = (
    "At equal calls, 11, 21 and 41, tAB3-DEIS ends nearer the exact solution than DDIM, which is tAB0-DEIS, and than "
    "DPM-Solver++(2M) on the linear flow, on VP and on EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; 6 calls, tAB1 and tAB2, and log rho for reference."""
    where, calls = ("flow", "vp", "edm"), (11, 21, 41)
    one = rows("method", "deis", where, calls)
    ddim, two = rows("natural", "ddim", where, calls), rows("equal-cost", "dpmpp2m", where, calls)
    others = [rows("reference", s, where, (6,)) for s in ("deis", "deis:points=3", "deis:points=2", "ddim", "dpmpp2m")]
    others += [rows("reference", s, where, (21,)) for s in ("deis:points=3", "deis:points=3,variable=logrho")]
    most = all(below(one, ddim))
    return Evidence(CLAIM, one + ddim + two + sum(others, []), verdict(most and all(below(one, two)), most))
