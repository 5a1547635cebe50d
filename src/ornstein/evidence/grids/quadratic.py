"""Evidence for quadratic times: small steps at the data."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "On linear VP, for which it was made, quadratic times end nearer the exact solution at 11, 21 and 41 calls than even "
    "times and than Karras' ladder, under DDIM, DPM-Solver++(2M) and Heun."
)


def run(quick: bool = True) -> Evidence:
    """The flow stands beside it."""
    where = ("vp:schedule=linear",)
    one = rows("method", "quadratic", where)
    even, karras = rows("natural", "uniform", where), rows("equal-cost", "karras", where)
    shown = [*rows("reference", "quadratic", ("flow",)), *rows("reference", "uniform", ("flow",))]
    return Evidence(CLAIM, [*one, *even, *karras, *shown], verdict(ahead(one, even) and ahead(one, karras), ahead(one, even)))
