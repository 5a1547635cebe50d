"""Evidence for composition: two conditions at once against the exact law of both, on exact mixtures."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor

from ornstein.core.denoiser import guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import bayes, energy
from ornstein.guidance.compose import Compose
from ornstein.processes.flow import Flow
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

ROWS, COLUMNS, STEPS, EACH = 3, 3, 20, 120
LAW = "energy distance to the exact law of row and column (lower)"
HIT = "share that the exact Bayes classifier gives to the column"
CLAIM = ("Where two conditions are about independent parts of the sample, their composition is as good as a model that knows both: "
         "energy distance to the exact law within 0.05; where they are not, it is still closer to it than the mean of the two "
         "and than one of them with as many calls; a negative weight keeps samples off its condition.")  # fmt: skip


def beds(seed: int, jitter: float) -> tuple[Mixture, Mixture]:
    """Cells (row, column) in 8 dimensions, as labels of their own; and the same law with labels 0-2 for the rows and 3-5 for
    the columns. Rows speak of the first four dimensions, columns of the others, and `jitter` moves each cell besides."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (ROWS, COLUMNS))
    i, j = torch.arange(ROWS * COLUMNS) // COLUMNS, torch.arange(ROWS * COLUMNS) % COLUMNS
    means = torch.cat([a[i], b[j]], 1)
    means = means + jitter * torch.randn(means.shape, generator=generator, dtype=torch.float64)
    std = torch.tensor(0.5)
    return Mixture(means, std, Flow()), Mixture(torch.cat([means] * 2), std, Flow(), None, torch.cat([i, j + ROWS]))


def column(j: int) -> dict[str, Tensor]:
    return {"label": torch.tensor([ROWS + j])}


RULES: dict[str, tuple[str, Callable[[int], Compose], int, int]] = {  # kind, rule for a column, steps, calls
    "both composed": ("method", lambda j: Compose(1.0, (column(j),), (1.0,)), STEPS, 3 * STEPS),
    "row alone": ("natural", lambda j: Compose(), 3 * STEPS, 3 * STEPS),
    "mean of row and column": ("equal-cost", lambda j: Compose(0.5, (column(j),), (0.5,)), 3 * STEPS // 2, 3 * STEPS),
    "row, away from column": ("method", lambda j: Compose(1.0, (column(j),), (-1.0,)), STEPS, 3 * STEPS),
}


def _draw(model: Mixture, j: int, rule: Compose, steps: int, seed: int) -> Tensor:
    cond = {"label": torch.arange(EACH) % ROWS}
    ids = range(EACH * j, EACH * (j + 1))
    return sample(guide(model, rule), (EACH, 8), DPMpp2M(), steps, cond=cond, seed=seed, ids=ids).double()


def run(quick: bool = True) -> Evidence:
    rows, law, within = [], {}, {}
    label = torch.cat([COLUMNS * (torch.arange(EACH) % ROWS) + j for j in range(COLUMNS)])
    for name, jitter in (("independent", 0.0), ("dependent", 0.5)):
        figures: dict[str, tuple[list[float], list[float]]] = {rule: ([], []) for rule in (*RULES, "model of both")}
        for seed in range(5 if quick else 20):
            cells, model = beds(seed, jitter)
            drawn = {rule: torch.cat([_draw(model, j, make(j), steps, seed) for j in range(COLUMNS)])
                     for rule, (_, make, steps, _) in RULES.items()}  # fmt: skip
            drawn["model of both"] = sample(cells, (len(label), 8), DPMpp2M(), STEPS, cond={"label": label}, seed=seed).double()
            real = cells.sample(len(label), seed, {"label": label})
            for rule, x in drawn.items():
                found = bayes(cells, x, range(ROWS * COLUMNS)).argmax(1)
                figures[rule][0].append(fmean(energy(x[label == k], real[label == k]) for k in range(ROWS * COLUMNS)))
                figures[rule][1].append((found % COLUMNS == label % COLUMNS).double().mean().item())
        for rule, (distance, share) in figures.items():
            kind, _, _, calls = RULES.get(rule, ("floor", None, 0, STEPS))
            away = "away" in rule
            if not away:
                rows.append(Row(f"{name}: {rule}", kind, LAW, distance, f"{calls} NFE"))
            rows.append(Row(f"{name}: {rule}", kind, f"{HIT} ({'lower' if away else 'higher'})", share, f"{calls} NFE"))
        law[name], within[name] = {k: v[0] for k, v in figures.items()}, {k: v[1] for k, v in figures.items()}

    def beats(name: str) -> bool:
        return all(a < min(b, c) for a, b, c in zip(*(law[name][k] for k in list(RULES)[:3])))

    exact = all(v < 0.05 for v in law["independent"]["both composed"]) and beats("independent")
    away = all(a < b / 2 for w in within.values() for a, b in zip(w["row, away from column"], w["row alone"]))
    return Evidence(CLAIM, rows, verdict(exact and beats("dependent") and away, exact))
