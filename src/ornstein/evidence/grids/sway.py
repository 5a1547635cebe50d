"""Evidence for sway sampling: whether steps that crowd at the noise help where nothing was learnt wrongly."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "On the linear flow at 11, 21 and 41 calls, sway s = -1 ends nearer the exact solution than even flow time, under "
    "Euler's method, DDIM, DPM-Solver++(2M) and Heun."
)
SOLVERS = ("euler", "ddim", "dpmpp2m", "heun")


def run(quick: bool = True) -> Evidence:
    """s = 1, the other way, and Karras' ladder stand beside it; so does even flow time on EDM."""
    one, even = (rows(k, rule, ("flow",), SOLVERS) for k, rule in (("method", "sway"), ("natural", "sway:s=0")))
    shown = [*rows("equal-cost", "sway:s=1", ("flow",), SOLVERS), *rows("equal-cost", "karras", ("flow",), SOLVERS)]
    shown += [r for rule in ("sway", "sway:s=0", "karras") for r in rows("reference", rule, ("edm",))]
    partly = any(ahead(one, even, s) for s in SOLVERS)
    return Evidence(CLAIM, [*one, *even, *shown], verdict(ahead(one, even), partly))
