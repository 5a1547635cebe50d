"""Evidence for RK4: whether four calls per step in the process's own time are worth their price."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below
from ._singlestep import rows

VARIANTS = ("method=midpoint",)  # that `ornstein bench solvers` tries beside the default
CLAIM = (
    "At most 24 and 40 calls, RK4 ends nearer the exact solution than Euler, Heun, the midpoint rule and "
    "DPM-Solver++(2M) on the linear flow, on VP and on EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; 12 calls are shown, not judged."""
    where, calls = ("flow", "vp", "edm"), (24, 40)
    names = {"euler": "natural", "heun": "equal-cost", "rk4:method=midpoint": "equal-cost", "dpmpp2m": "equal-cost"}
    one = rows("method", "rk4", where, calls)
    other = {name: rows(kind, name, where, calls) for name, kind in names.items()}
    won = [all(w) for w in zip(*(below(one, r) for r in other.values()))]
    few = [r for s, k in (("rk4", "method"), *names.items()) for r in rows(k, s, where, (12,))]
    straight = 2 * len(calls)  # rows of the flow and of VP
    every = one + [r for found in other.values() for r in found] + few
    return Evidence(CLAIM, every, verdict(all(won), all(won[:straight])))
