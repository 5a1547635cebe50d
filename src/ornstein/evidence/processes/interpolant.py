"""Evidence for interpolants: the schedules with a Gaussian end, and whether two mixtures are joined at all."""

from __future__ import annotations

from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._bridges import Bridge, checker, sliced
from ornstein.evidence.solvers._ground import METRIC, below, errors
from ornstein.processes.interpolant import Interpolant
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

CLAIM = (
    "Under Heun at 21 and 41 calls the trigonometric one-sided schedule ends nearer its exact solution than the linear one and the "
    "encoding half; two-sided, with the exact velocity, 41 calls carry a ring of blobs to a checkerboard within 1.5 "
    "times the distance of fresh data, whichever the schedule."
)
LAW = "sliced Wasserstein-1 distance to the data's law (lower)"
JOINED = (("linear", "root"), ("trigonometric", "parabola"), ("encoding-decoding", "sine"))


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture; three of 1000 samples in the plane."""
    calls, rows = (21, 41), {}
    for schedule in ("trigonometric", "linear", "encoding-decoding"):
        kind, spec = "method" if schedule == "trigonometric" else "natural", f"interpolant:schedule={schedule!r}"
        rows[schedule] = [Row(f"one-sided, {schedule}", kind, METRIC, errors(spec, "heun", n, "uniform"), f"{n} NFE")
                          for n in calls]  # fmt: skip
    won = [all(below(rows["trigonometric"], rows[other])) for other in ("linear", "encoding-decoding")]
    two = []
    for schedule, gamma in JOINED:
        process = Interpolant(schedule, gamma)
        data, end = checker(process), Mixture.ring(process, 3, 2.0, 0.2)
        ends = [sample(Bridge(data, end, process), end.sample(1000, seed=s), Heun(), 21) for s in range(3)]
        two.append(Row(f"two-sided, {schedule}, {gamma}", "method", LAW, [sliced(x, data) for x in ends], "41 NFE"))
    floor = Row("fresh data", "floor", LAW, [sliced(data.sample(1000, seed=50 + s), data) for s in range(3)])
    still = Row("the end points themselves", "reference", LAW, [sliced(end.sample(1000, seed=s), data) for s in range(3)])
    joined = all(r.mean < 1.5 * floor.mean for r in two)
    every = [r for some in rows.values() for r in some] + two + [floor, still]
    return Evidence(CLAIM, every, verdict(all(won) and joined, joined or all(won)))
