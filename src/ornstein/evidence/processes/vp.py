"""Evidence for the variance-preserving process: its cosine schedule against the linear one."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.solvers._ground import below, rows

CLAIM = (
    "With uniform steps, at 11, 21 and 41 calls, the cosine schedule ends nearer its exact solution than the "
    "linear one, under DDIM, Euler and DPM-Solver++(2M)."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; the linear flow is shown beside, not judged."""
    calls, solvers = (11, 21, 41), ("ddim", "euler", "dpmpp2m")
    one = [r for s in solvers for r in rows("method", s, ("vp",), calls)]
    linear = [r for s in solvers for r in rows("natural", s, ("vp:schedule=linear",), calls)]
    flow = [r for s in solvers for r in rows("equal-cost", s, ("flow",), calls)]
    won = below(one, linear)
    return Evidence(CLAIM, one + linear + flow, verdict(all(won), sum(won) > len(won) / 2))
