"""Evidence for powers of even log-SNR: whether leaving rho = 1 is worth it."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "At 11, 21 and 41 calls, rho = 0.7 ends nearer the exact solution than even log-SNR (rho = 1) on the linear flow, "
    "cosine VP and EDM, under DDIM, DPM-Solver++(2M) and Heun."
)


def run(quick: bool = True) -> Evidence:
    """rho = 1.5, the other way, and even flow time stand beside it."""
    where = ("flow", "vp", "edm")
    one, even = rows("method", "polyexponential:rho=0.7", where), rows("natural", "logsnr", where)
    shown = [*rows("equal-cost", "polyexponential:rho=1.5", where), *rows("equal-cost", "sway:s=0", where)]
    return Evidence(CLAIM, [*one, *even, *shown], verdict(ahead(one, even), ahead(one, even, "ddim")))
