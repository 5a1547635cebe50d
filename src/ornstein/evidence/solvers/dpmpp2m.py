"""Evidence for DPM-Solver++(2M): a second order that costs no more calls than the first."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below, rows

CLAIM = (
    "At equal calls, 11, 21 and 41, DPM-Solver++(2M) ends nearer the exact solution than DDIM, Euler and Heun on "
    "the linear flow, on VP and on EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture."""
    where, calls = ("flow", "vp", "edm"), (11, 21, 41)
    one = rows("method", "dpmpp2m", where, calls)
    ddim, heun, euler = (
        rows(k, s, where, calls) for k, s in (("natural", "ddim"), ("equal-cost", "heun"), ("equal-cost", "euler"))
    )
    clear = [all(each) for each in zip(*(below(one, other) for other in (ddim, heun, euler)))]
    later = [c for c, n in zip(clear, calls * len(where)) if n > 11]  # the weaker claim: from 21 calls on
    return Evidence(CLAIM, one + ddim + heun + euler, verdict(all(clear), all(later)))
