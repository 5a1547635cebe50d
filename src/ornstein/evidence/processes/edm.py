"""Evidence for EDM: its grid against others on the same process, and the whole against the linear flow."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.solvers._ground import METRIC, below, errors, rows

CLAIM = (
    "Under Heun at 21 and 41 calls EDM with the Karras grid ends nearer its exact solution than with steps "
    "uniform in sigma or in log-SNR, and than the linear flow with uniform steps."
)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture."""
    calls = (21, 41)
    one = rows("method", "heun", ("edm",), calls, "heun, karras grid")
    uniform, logsnr = (
        [Row(f"heun, {g} grid, edm", "natural", METRIC, errors("edm", "heun", n, g), f"{n} NFE") for n in calls]
        for g in ("uniform", "logsnr")
    )
    flow = rows("equal-cost", "heun", ("flow",), calls, "heun, uniform grid")
    grids = all(below(one, uniform)) and all(below(one, logsnr))
    return Evidence(CLAIM, one + uniform + logsnr + flow, verdict(grids and all(below(one, flow)), grids))
