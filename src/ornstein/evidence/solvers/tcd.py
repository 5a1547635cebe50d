"""Evidence for TCD's sampling: the share of fresh noise, with an inexact jump and with a plain denoiser."""

from __future__ import annotations

from ornstein.core import catalog
from ornstein.evidence import Evidence, verdict
from ornstein.testbeds import Mixture

from ._ground import below
from .lcm import Jump, ends

CLAIM = (
    "On a ring of eight blobs, given the mean by a plain denoiser, gamma = 0.3 ends nearer the data than LCM's sampling "
    "at 4, 8 and 16 calls and than DDIM at 4; given an inexact jump to the data, it ends nearer than LCM's at 8."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 400 samples, against 400 data each."""
    plain = Mixture.ring(catalog.build("processes", "flow"))
    mean = {n: [ends(k, "plain denoiser", plain, s, n) for k, s in
            (("method", "tcd"), ("natural", "lcm"), ("equal-cost", "ddim"))] for n in (4, 8, 16)}  # fmt: skip
    jump = [ends(k, "inexact jump", Jump(plain, 2), s, 8) for k, s in
            (("method", "tcd"), ("natural", "lcm"), ("equal-cost", "ddim"))]  # fmt: skip
    before_lcm = [below(r[:1], r[1:2])[0] for r in mean.values()]
    before_ddim = below(mean[4][:1], mean[4][2:])[0]
    mends = below(jump[:1], jump[1:2])[0]
    table = [*(r for rows in mean.values() for r in rows), *jump]
    return Evidence(CLAIM, table, verdict(all(before_lcm) and before_ddim and mends, all(before_lcm)))
