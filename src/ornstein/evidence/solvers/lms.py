"""Evidence for LMS: Adams and Bashforth in sigma, against Euler in sigma and against Heun for the same calls."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict

from ._ground import below, rows

VARIANTS = ("points=2",)  # that `ornstein bench solvers` tries beside the default
CLAIM = (
    "At equal calls, 11, 21 and 41, LMS with four points ends nearer the exact solution than DDIM, which is LMS with one, "
    "than Heun and than DPM-Solver++(2M) on the linear flow, on VP and on EDM with their customary grids."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture. In part: nearer than DDIM and Heun."""
    where, calls = ("flow", "vp", "edm"), (11, 21, 41)
    one = rows("method", "lms", where, calls)
    ddim, heun, two = (
        rows(k, s, where, calls) for k, s in (("natural", "ddim"), ("equal-cost", "heun"), ("equal-cost", "dpmpp2m"))
    )
    fewer = rows("reference", "lms:points=2", where, (21,)) + rows("reference", "lms:points=3", where, (21,))
    most = all(below(one, ddim)) and all(below(one, heun))
    return Evidence(CLAIM, one + ddim + heun + two + fewer, verdict(most and all(below(one, two)), most))
