"""Evidence for Euler: where it is DDIM, where it is better, and that its error halves with the step."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict

from . import _ground
from ._ground import below, rows

CLAIM = (
    "On the linear flow and on EDM Euler ends where DDIM does, to 1e-9; on both variance-preserving schedules it "
    "is nearer the exact solution than DDIM at 11, 21 and 41 calls, and than Heun at equal calls at 11 and 21."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture."""
    vp, calls = ("vp", "vp:schedule=linear"), (11, 21, 41)
    gaps = [float((_ground.run(p, "euler", 11) - _ground.run(p, "ddim", 11)).abs().max()) for p in ("flow", "edm")]
    one, ddim, heun = (
        rows(k, s, vp, calls) for k, s in (("method", "euler"), ("natural", "ddim"), ("equal-cost", "heun"))
    )
    nearer, early = all(below(one, ddim)), [won for won, r in zip(below(one, heun), one) if r.cost != "41 NFE"]
    same = [Row("euler against ddim, flow and edm", "method", "largest difference (0: the same)", gaps, "11 NFE")]
    good = max(gaps) < 1e-9 and nearer
    return Evidence(CLAIM, same + one + ddim + heun, verdict(good and all(early), max(gaps) < 1e-9))
