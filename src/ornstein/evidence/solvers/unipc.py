"""Evidence for UniPC: a corrector that takes the call of the next step, against the predictor without it."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below, rows

VARIANTS = ("points=3", "points=2,variant=bh1")  # that `ornstein bench solvers` tries beside the default
CLAIM = (
    "At equal calls, 6, 11, 21 and 41, UniPC-2 ends nearer the exact solution than its predictor alone, which is "
    "DPM-Solver++(2M), and than DDIM on the linear flow, on VP and on EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture. In part: nearer than the predictor from 11 calls on."""
    where, calls = ("flow", "vp", "edm"), (6, 11, 21, 41)
    one = rows("method", "unipc", where, calls)
    alone, ddim = rows("natural", "dpmpp2m", where, calls), rows("equal-cost", "ddim", where, calls)
    others = [rows("reference", s, where, (6, 21)) for s in ("unipc:points=3", "unipc:predicts=noise")]
    ahead = below(one, alone)
    later = [good for row, good in zip(one, ahead) if row.cost != "6 NFE"]
    whole = all(ahead) and all(below(one, ddim))
    return Evidence(CLAIM, one + alone + ddim + sum(others, []), verdict(whole, all(later)))
