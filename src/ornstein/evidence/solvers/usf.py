"""Evidence for USF: what its further decisions are worth beside DPM-Solver++(2M), which it is by default."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, verdict

from . import _ground as g

CLAIM = ("As it stands USF is DPM-Solver++(2M), and with one term DDIM, to rounding; with exact integrals and the corrector, which "
         "cost no call, it ends nearer the exact solution than DPM-Solver++(2M), DDIM and Heun at 6, 10 and 20 calls on the linear "
         "flow, on VP and on EDM with their customary grids.")  # fmt: skip
BETTER = "usf:scale='exact',correct=True"


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture."""
    where, calls = ("flow", "vp", "edm"), (6, 10, 20) if quick else (5, 6, 8, 10, 15, 20, 40)
    gaps = [float((g.run(p, a, 10) - g.run(p, b, 10)).abs().max()) for p in where
            for a, b in (("usf", "dpmpp2m"), ("usf:terms=1", "ddim"))]  # fmt: skip
    one = g.rows("method", BETTER, where, calls, "usf, exact and corrected")
    plain, ddim, heun = (g.rows(k, s, where, calls) for k, s in
                         (("natural", "dpmpp2m"), ("equal-cost", "ddim"), ("equal-cost", "heun")))  # fmt: skip
    wins = torch.tensor([g.below(one, other) for other in (plain, ddim, heun)]).all(0)  # one per process and number of calls
    same = max(gaps) < 1e-10
    note = (f"Largest difference to DPM-Solver++(2M) and to DDIM at 10 calls: {max(gaps):.0e}. Nearest on "
            + ", ".join(f"{p} at {int(w.sum())} of {len(calls)}" for p, w in zip(where, wins.reshape(3, -1))) + ".")  # fmt: skip
    partly = same and bool(wins.reshape(3, -1)[:2].all())
    return Evidence(CLAIM, one + plain + ddim + heun, verdict(same and bool(wins.all()), partly), note)
