"""Evidence for Heun: whether two calls per step beat twice as many steps of Euler."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below, rows

CLAIM = (
    "At equal calls, 21 and 41, Heun ends nearer the exact solution than Euler on the linear flow, on VP and on "
    "EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; 11 calls are shown, not judged."""
    where, calls = ("flow", "vp", "edm"), (21, 41)
    one, euler = rows("method", "heun", where, calls), rows("equal-cost", "euler", where, calls)
    won = below(one, euler)
    other = rows("natural", "ddim", where, calls) + rows("equal-cost", "dpmpp2m", where, calls)
    few = rows("method", "heun", where, (11,)) + rows("equal-cost", "euler", where, (11,))
    return Evidence(
        CLAIM, one + euler + other + few, verdict(all(won), all(w for w, r in zip(won, one) if r.cost == "41 NFE"))
    )
