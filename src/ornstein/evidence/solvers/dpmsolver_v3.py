"""Evidence for DPM-Solver-v3: statistics of the model against none, at equal calls; on a trained network too if not quick."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.solvers.dpmsolver_v3 import DPMSolverV3, calibrate

from ._ground import METRIC, SEEDS, below, errors, ground, rows

CLAIM = (
    "With statistics from 256 samples of the 16-dimensional mixture, DPM-Solver-v3 (two points and corrector) ends nearer the "
    "exact solution than DPM-Solver++(2M), DDIM and UniPC at 5, 10 and 20 calls, on the linear flow, linear VP and EDM."
)
WHERE, CALLS = ("flow", "vp:schedule=linear", "edm"), (5, 10, 20)


def _statistics(process: str) -> Artefact:
    mixture = ground(process)[0]
    return calibrate(mixture, mixture.sample(256, seed=7), points=60, batch=256)


def run(quick: bool = True) -> Evidence:
    """Partly where it is nearer than its natural baseline alone."""
    one = []
    for process in WHERE:
        solver = DPMSolverV3(_statistics(process))
        one += [Row(f"v3, {process}", "method", METRIC, errors(process, solver, n), f"{n} NFE") for n in CALLS]
    two, ddim, unipc = (
        rows(k, s, WHERE, CALLS) for k, s in (("natural", "dpmpp2m"), ("equal-cost", "ddim"), ("equal-cost", "unipc"))
    )
    if not quick:
        for mine, more in zip((one, two, ddim, unipc), _digits()):
            mine += more
    natural = all(below(one, two))
    whole = natural and all(below(one, ddim)) and all(below(one, unipc))
    return Evidence(CLAIM, one + two + ddim + unipc, verdict(whole, natural))


def _digits(count: int = 80) -> list[list[Row]]:
    """The same on the digits model: distances to 200 steps of DPM-Solver++(2M), five seeds of 16 trajectories."""
    from ornstein.model import load

    model = load("digits")
    cond = model.encode([str(i % 10) for i in range(count)])
    solvers = {name: catalog.build("solvers", name) for name in ("dpmpp2m", "ddim", "unipc")}

    def ends(solver: object, steps: int, seed: int = 1) -> torch.Tensor:
        return sample(model.denoiser, (count, *model.shape), solver, steps, cond=cond, seed=seed)

    found = calibrate(model.denoiser, ends(solvers["dpmpp2m"], 20, seed=9), cond, points=48, batch=80)
    exact, out = ends(solvers["dpmpp2m"], 200), []
    kinds = ("method", "natural", "equal-cost", "equal-cost")
    for kind, (name, solver) in zip(kinds, ({"v3": DPMSolverV3(found)} | solvers).items()):
        out.append([])
        for n in CALLS:
            gap = (ends(solver, n) - exact).square().flatten(1).mean(1).sqrt().reshape(SEEDS, -1).median(1)[0]
            metric = "median distance to 200 steps (lower)"
            out[-1].append(Row(f"{name}, digits", kind, metric, gap.tolist(), f"{n} NFE"))
    return out
