"""Evidence for the ladder of Karras et al., on the process that they made it for."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "On EDM, with rho = 7 and at 11, 21 and 41 calls, Karras' ladder ends nearer the exact solution than even steps of "
    "sigma, even log-SNR and even flow time, under DDIM, DPM-Solver++(2M) and Heun."
)


def run(quick: bool = True) -> Evidence:
    """Partly where only even steps of sigma are beaten everywhere. Even flow time is `sway:s=0`."""
    where = ("edm",)
    one, even = rows("method", "karras", where), rows("natural", "uniform", where)
    others = [rows("equal-cost", rule, where) for rule in ("logsnr", "sway:s=0")]
    holds = ahead(one, even) and all(ahead(one, o) for o in others)
    return Evidence(CLAIM, [*one, *even, *others[0], *others[1]], verdict(holds, ahead(one, even)))
