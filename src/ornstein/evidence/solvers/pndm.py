"""Evidence for PNDM: the publication's twentyfold against DDIM, what the warm-up costs, and the two corrections."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.evidence import Evidence, Row, verdict

from ._ground import GRIDS, METRIC, ROWS, SEEDS, below, ground, rows

VARIANTS = ("warmup=improved", "terms=2")  # that `ornstein bench solvers` tries beside the default
CLAIM = (
    "At equal calls, 11, 21 and 41, PNDM with low-order warm-up ends nearer the exact solution than DDIM on the linear "
    "flow, both VP schedules and EDM; and as published (Runge-Kutta warm-up) with 50 calls nearer than DDIM with 1000 on "
    "both VP schedules."
)
EVERYWHERE, VP = ("flow", "vp", "vp:schedule=linear", "edm"), ("vp", "vp:schedule=linear")
PUBLISHED = "pndm:warmup=rk,faithful=True"


def row(kind: str, spec: str, process: str, calls: int) -> Row:
    """The errors with `calls` network calls, warm-up and all; the calls in the row are those that were counted."""
    solver, run = catalog.build("solvers", spec), Run()
    more = {"low": 0, "improved": 1, "rk": 3 * (solver.terms - 1)}[solver.warmup]
    mixture, start, exact = ground(process)
    end = sample(mixture, start, solver, calls - more, rule=GRIDS[process], run=run)
    values = (end - exact).square().mean(1).sqrt().reshape(SEEDS, ROWS).median(1)[0]
    values = torch.nan_to_num(values, nan=1e9, posinf=1e9).tolist()
    return Row(f"{spec}, {process}", kind, METRIC, values, f"{run.record.calls['evaluations']} NFE")


def run(quick: bool = True) -> Evidence:
    """Five seeds of 32 trajectories of the 16-dimensional mixture."""
    calls = (11, 21, 41)
    one, ddim, dpm = (
        rows(k, s, EVERYWHERE, calls) for k, s in (("method", "pndm"), ("natural", "ddim"), ("equal-cost", "dpmpp2m"))
    )
    twenty = [row("method", PUBLISHED, p, 50) for p in VP]
    thousand = rows("reference", "ddim", VP, (1000,))
    more = [row("equal-cost", s, p, n) for s in ("pndm:faithful=True", "pndm:warmup=improved", "pndm:warmup=rk", PUBLISHED)
            for p in EVERYWHERE for n in (21, 41)]  # fmt: skip
    more += [row("equal-cost", "pndm", p, 50) for p in VP]
    everywhere = all(below(one, ddim))
    return Evidence(CLAIM, [*one, *ddim, *dpm, *twenty, *thousand, *more],
                    verdict(everywhere and all(below(twenty, thousand)), everywhere))  # fmt: skip
