"""Evidence for SA-Solver: whether its corrector, which costs no call, brings the law nearer to the data's."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import GRIDS
from ._law import ahead, row

CLAIM = (
    "At 11, 21 and 41 calls on the linear flow, VP and EDM SA-Solver with its corrector ends in a law nearer to the "
    "data's than the same predictor alone, both as an ODE solver (tau = 0) and on the reverse SDE (tau = 1)."
)


def run(quick: bool = True) -> Evidence:
    """Laws of five Gaussians without chance. Partly: all of one tau, or all but two of the 18 comparisons."""
    table, won = [], {0: [], 1: []}
    for tau in won:
        for p in ("flow", "vp", "edm"):
            for n in (11, 21, 41):
                one = row("method", f"sa_solver:tau={tau}", p, n, GRIDS[p])
                alone = row("natural", f"sa_solver:tau={tau},corrector=0", p, n, GRIDS[p])
                won[tau].append(ahead(one, alone))
                table += [one, alone, row("equal-cost", ("dpmpp2m", "dpmpp_sde")[tau], p, n, GRIDS[p])]
    most = all(won[0]) or all(won[1]) or sum(won[0]) + sum(won[1]) >= 16
    return Evidence(CLAIM, table, verdict(all(won[0]) and all(won[1]), most))
