"""Evidence for ancestral sampling: it forgets a wrong start, and pays for it where steps are few."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, Row, verdict
from ornstein.solvers.ddpm import DDPM, left_over
from ornstein.testbeds import Mixture

from ._ground import below, ground
from .ddim import METRIC, distances

CLAIM = (
    "Started from noise that is 20% too wide, 100 ancestral steps end nearer the data than 100 DDIM or Euler "
    "steps on both variance-preserving schedules; with 5 or 10 steps from the right noise 'small' is farther from "
    "it than DDIM."
)


def best(mixture: Mixture) -> DDPM:
    """The variance of Analytic-DPM, measured on 500 data at 25 times."""
    times = torch.linspace(0.01, 1.0, 25, dtype=torch.float64)
    return DDPM("optimal", left_over(mixture, mixture.sample(500, seed=9), times))


def run(quick: bool = True) -> Evidence:
    """Five seeds of 400 samples at 100 calls, 800 at few, of the 16-dimensional mixture."""
    table, forgets, pays = [], [], []  # partly: most of the eight comparisons
    for p in ("vp", "vp:schedule=linear"):
        mixture = ground(p)[0]

        def row(kind: str, solver: str | DDPM, calls: int, stretch: float, p: str = p, mixture=mixture) -> Row:
            spec = solver if isinstance(solver, str) else "ddpm:variance=optimal"
            name = f"{spec}, {p}" + (", noise x 1.2" if stretch != 1 else "")
            return Row(
                name,
                kind,
                METRIC,
                distances(mixture, solver, calls, stretch, 400 if calls > 10 else 800),
                f"{calls} NFE",
            )

        wide = [row(k, s, 100, 1.2) for k, s in (("method", "ddpm"), ("natural", "ddim"), ("equal-cost", "euler"))]
        few = [row(k, s, n, 1.0) for n in (5, 10) for k, s in (("method", "ddpm"), ("natural", "ddim"))]
        large = [row("method", "ddpm:variance=large", n, 1.0) for n in (5, 10)]
        large += [row("method", best(mixture), n, 1.0) for n in (5, 10)]
        forgets += below([wide[0], wide[0]], wide[1:])
        pays += below(few[1::2], few[0::2])
        table += wide + few + large
    return Evidence(CLAIM, table, verdict(all(forgets) and all(pays), sum(forgets) + sum(pays) >= 5))
