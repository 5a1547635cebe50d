"""Evidence for the quantiles of a Beta distribution: small steps at both ends."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "At 11, 21 and 41 calls, the quantiles of Beta(0.6, 0.6) end nearer the exact solution than even flow time and than "
    "even log-SNR on the linear flow, linear VP and EDM, under DDIM, DPM-Solver++(2M) and Heun."
)


def run(quick: bool = True) -> Evidence:
    """Even flow time is `sway:s=0`; partly where only even log-SNR is beaten, under DDIM and Heun."""
    where = ("flow", "vp:schedule=linear", "edm")
    one, even = rows("method", "beta", where), rows("natural", "sway:s=0", where)
    log = rows("equal-cost", "logsnr", where)
    partly = ahead(one, log, "ddim") and ahead(one, log, "heun")
    return Evidence(CLAIM, [*one, *even, *log], verdict(ahead(one, even) and ahead(one, log), partly))
