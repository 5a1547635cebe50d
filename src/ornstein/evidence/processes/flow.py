"""Evidence for the linear flow: what straight paths are worth to few Euler steps."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.solvers._ground import below, rows

CLAIM = (
    "With 5, 10 and 20 Euler steps on the same mixture the linear flow ends nearer its exact solution than EDM "
    "and than VP, cosine or linear."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; DDIM on VP is shown beside, not judged."""
    calls = (5, 10, 20)
    one, edm = rows("method", "euler", ("flow",), calls), rows("equal-cost", "euler", ("edm",), calls)
    cosine, linear = (rows("natural", "euler", (p,), calls) for p in ("vp", "vp:schedule=linear"))
    beside = rows("equal-cost", "ddim", ("vp", "vp:schedule=linear"), calls)
    won = [all(below(one, other)) for other in (edm, cosine, linear)]
    return Evidence(CLAIM, one + edm + cosine + linear + beside, verdict(all(won), any(won)))
