"""Evidence for even log-SNR, in which the exponential integrators reckon."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "Under DPM-Solver++(2M) with 11, 21 and 41 calls, even log-SNR ends nearer the exact solution than even times and than "
    "Karras' ladder, on the linear flow, cosine VP, linear VP and EDM."
)


def run(quick: bool = True) -> Evidence:
    """Partly where it does so on EDM and on linear VP alone, whose times are far from flow time."""
    where = ("flow", "vp", "vp:schedule=linear", "edm")
    one, even, karras = (
        rows(kind, rule, where, ("dpmpp2m",))
        for kind, rule in (("method", "logsnr"), ("natural", "uniform"), ("equal-cost", "karras"))
    )
    partly = all(ahead(one, o, p) for o in (even, karras) for p in ("vp:schedule=linear", "edm"))
    return Evidence(CLAIM, [*one, *even, *karras], verdict(ahead(one, even) and ahead(one, karras), partly))
