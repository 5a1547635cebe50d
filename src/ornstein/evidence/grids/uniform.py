"""Evidence for even steps of time: what every other grid has to beat."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import ahead, rows

CLAIM = (
    "At 11, 21 and 41 calls, even steps of time end nearer the exact solution than Karras' ladder and than even log-SNR on "
    "the linear flow and on cosine VP, under DDIM, DPM-Solver++(2M) and Heun."
)


def run(quick: bool = True) -> Evidence:
    """EDM, where time is the noise level itself, and the shift stand beside it."""
    where = ("flow", "vp")
    one = rows("method", "uniform", where)
    others = [rows("natural", "logsnr", where), rows("equal-cost", "karras", where)]
    shown = [*rows("reference", "uniform", ("edm",)), *rows("reference", "uniform:shift=3", ("flow",))]
    holds = all(ahead(one, o) for o in others)
    partly = all(ahead(one, o, "ddim") for o in others)
    return Evidence(CLAIM, [*one, *others[0], *others[1], *shown], verdict(holds, partly))
