"""Evidence for rhoRK: whether Runge-Kutta in s/a beats the same tableau in the process's own time."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below
from ._singlestep import rows

CLAIM = (
    "At most 12, 24 and 40 calls with equal steps in time, the midpoint rule in rho = s/a ends nearer the exact solution "
    "than DDIM, and than the midpoint rule in the process's own time, on VP with the linear schedule, on VP with the "
    "cosine schedule and on the linear flow."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; the other tableaux are shown, not judged."""
    where, calls = ("vp:schedule=linear", "vp", "flow"), (12, 24, 40)
    one = rows("method", "rhork", where, calls)
    ddim, time = rows("natural", "ddim", where, calls), rows("equal-cost", "rk4:method=midpoint", where, calls)
    multi = rows("equal-cost", "dpmpp2m", where, calls)
    other = [r for m in ("heun", "kutta3", "rk4") for r in rows("reference", f"rhork:method={m}", where, calls)]
    first, second = below(one, ddim), below(one, time)
    own = len(calls)  # the schedule of the publication
    most = all(first[:own]) and all(second[:own])
    return Evidence(CLAIM, one + ddim + time + multi + other, verdict(all(first) and all(second), most))
