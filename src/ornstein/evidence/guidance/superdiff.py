"""Evidence for SuperDiff: its log densities, the law of 'or' and the balance of 'and', on pairs of exact mixtures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.loop import Controller, sample
from ornstein.core.prediction import Prediction
from ornstein.core.seam import Run
from ornstein.evidence import Evidence, verdict
from ornstein.evidence._laws import energy
from ornstein.guidance.compose import Compose
from ornstein.guidance.superdiff import SuperDiff
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

from ._score import row

STEPS, COUNT, DIMS, STD = 50, 240, 4, 0.35
OTHER = {"label": torch.tensor([1])}
ERROR = "median error of log p1 - log p2 at the last call, nats (lower)"
LAW = "energy distance to the even mixture of both (lower)"
GAP = "median |log p1 - log p2| at the end, nats (lower)"
DENSE = "mean over samples of min(log p1, log p2), nats (higher)"
CLAIM = ("For pairs of exact mixtures and a solver with the full ancestral noise, the error of the followed log densities falls as "
         "steps grow in number; 'or' is closer to the mixture of both than the mean of the scores for every pair, and as close "
         "(to 0.02) as one of the two drawn by chance; 'and' ends with less than half the gap between the log densities that the "
         "mean of the scores has, and with a denser less likely one.")  # fmt: skip


def pair(seed: int) -> Mixture:
    """Labels 0 and 1 of three modes each, one of which they share, with a tenth of each one's weight."""
    means = 1.2 * torch.randn(5, DIMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.tensor([0.45, 0.45, 0.1, 0.1, 0.45, 0.45])
    return Mixture(means[[0, 1, 2, 2, 3, 4]], torch.tensor(STD), Flow(), weights, torch.tensor([0, 0, 0, 1, 1, 1]))


def log_ratio(mixture: Mixture, x: Tensor, t: float) -> Tensor:
    """log p1 - log p0 at time t, exact, [B]."""
    one, other = (mixture.log_density(x.double(), t, {"label": torch.full((len(x),), k)}) for k in (0, 1))
    return other - one


@dataclass(frozen=True, eq=False)
class Last(Controller):
    """Keeps where the last call was made."""

    kept: dict = field(default_factory=dict)

    def on_prediction(self, clock: Clock, x: Tensor, prediction: Prediction) -> Prediction:
        self.kept.update(x=x, t=clock.t)
        return prediction


def walk(mixture: Mixture, rule: object, steps: int, seed: int, label: Tensor | None = None,
         eta: float = 1.0) -> tuple[Tensor, float]:
    """Samples [COUNT, DIMS] and the error of the log ratio at the last call, where the rule follows one."""
    run, last = Run(), Last()
    cond = {"label": torch.zeros(COUNT, dtype=torch.long) if label is None else label}
    x = sample(guide(mixture, rule) if rule else mixture, (COUNT, DIMS), DDIM(eta), steps, cond=cond, seed=seed, run=run,
               controllers=[last]).double()  # fmt: skip
    log = run.record.facts.get("superdiff", {}).get("log")
    if log is None:
        return x, math.nan
    return x, (log[1] - log[0] - log_ratio(mixture, **last.kept)).abs().median().item()


def run(quick: bool = True) -> Evidence:
    kinds = {"or": ("method", SuperDiff((OTHER,)), STEPS), "or, data_std": ("method", SuperDiff((OTHER,), data_std=STD), STEPS),
             "and": ("method", SuperDiff((OTHER,), mode="and"), STEPS),
             "and, limit 50": ("reference", SuperDiff((OTHER,), mode="and", limit=50.0), STEPS),
             "mean of the scores": ("natural", Compose(0.5, (OTHER,), (0.5,)), STEPS),
             "one drawn by chance": ("equal-cost", None, 2 * STEPS)}  # fmt: skip
    flat: list[float] = []  # under an ODE, for which the formula is not
    errors: dict[tuple[float, int], list[float]] = {(c, n): [] for c in (math.inf, STD) for n in (25, 50, 100)}
    law, gap, dense = ({name: [] for name in kinds} for _ in range(3))
    for seed in range(5 if quick else 20):
        mixture = pair(seed)
        real = mixture.sample(COUNT, seed + 100)
        for (std, steps), found in errors.items():
            found.append(walk(mixture, SuperDiff((OTHER,), data_std=std), steps, seed)[1])
        flat.append(walk(mixture, SuperDiff((OTHER,), data_std=STD), STEPS, seed, eta=0.0)[1])
        for name, (_, rule, steps) in kinds.items():
            x, _ = walk(mixture, rule, steps, seed, None if rule else torch.arange(COUNT) % 2)
            both = [mixture.log_density(x, 0.0, {"label": torch.full((COUNT,), k)}) for k in (0, 1)]
            law[name].append(energy(x, real))
            gap[name].append((both[0] - both[1]).abs().median().item())
            dense[name].append(torch.minimum(*both).mean().item())
    rows = [row(f"or, {'Ito' if math.isinf(std) else 'data_std'}, {n} steps", "method", ERROR, found, 2 * n)
            for (std, n), found in errors.items()]  # fmt: skip
    rows.append(row(f"or, data_std, {STEPS} steps of an ODE solver", "reference", ERROR, flat, 2 * STEPS))
    rows += [row(name, kinds[name][0], metric, found[name], 2 * STEPS) for name in kinds
             for metric, found in ((LAW, law), (GAP, gap), (DENSE, dense))]  # fmt: skip
    falls = all(fmean(errors[std, 100]) < fmean(errors[std, 50]) < fmean(errors[std, 25]) for std in (math.inf, STD))
    coin = fmean(law["or"]) < fmean(law["one drawn by chance"]) + 0.02
    union = all(a < b for a, b in zip(law["or"], law["mean of the scores"])) and coin
    meet = fmean(gap["and"]) < fmean(gap["mean of the scores"]) / 2 and fmean(dense["and"]) > fmean(dense["mean of the scores"])
    note = f"Error falls: {falls}; 'or': {union}; 'and': {meet}; 'partly' asks for the first and one of the others."
    return Evidence(CLAIM, rows, verdict(falls and union and meet, falls and (union or meet)), note)
