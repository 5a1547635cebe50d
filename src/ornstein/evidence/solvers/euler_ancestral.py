"""Evidence for Euler ancestral: it forgets a wrong start, which Euler's method keeps, and pays for it at few steps."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ends import ends
from ._ground import GRIDS, below
from ._law import ahead, row

CLAIM = (
    "On the linear flow and on EDM, started from noise that is 20% too wide, 40 Euler ancestral steps end nearer the data "
    "than 40 of Euler's method; from the right noise the law of 10 or 20 of them is farther from the data's."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 400 samples of the 16-dimensional mixture; laws of five Gaussians without chance."""
    table, forgets, pays = [], [], []
    for p in ("flow", "edm"):
        wide = [ends(k, s, p, 40, 1.2) for k, s in
                (("method", "euler_ancestral"), ("natural", "euler"), ("equal-cost", "dpmpp2m"))]  # fmt: skip
        forgets += below(wide[:1], wide[1:2])
        table += wide
        for n in (10, 20):
            one, flow, euler = (row(k, s, p, n, GRIDS[p]) for k, s in
                (("method", "euler_ancestral"), ("method", "euler_ancestral:down=flow"), ("natural", "euler")))  # fmt: skip
            pays.append(ahead(euler, one))
            table += [one, flow, euler]
    return Evidence(CLAIM, table, verdict(all(forgets) and all(pays), all(forgets) or all(pays)))
