"""Evidence for minority guidance: how often a rare component of an exact mixture is drawn, and whether samples stay in the data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.guidance.minority import Minority, learn_levels, minority_score, quantiles
from ornstein.processes.vp import VP
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.best_of_n import BestOfN
from ornstein.testbeds import Mixture

RARE, STRENGTH, STEPS, PLACE, BUDGET, STD = 0.05, 3.5, 20, 0.6, 4, 1.1
CLAIM = (f"Towards the rarest tenth at strength {STRENGTH}, a component of weight {RARE} is drawn at least three times as often "
         f"as by the plain sampler and more often than by the best of {BUDGET} by the same score, and at least nine samples in ten "
         "stay where the data are: above the density that one true sample in a hundred falls below.")  # fmt: skip
SHARE = f"share of the component of weight {RARE}"
STAYS = "share above the data's 1% quantile of density (0.99 is the data)"
TAIL = "share below the data's 10% quantile of density (0.1 is the data)"
COVER = "mean distance to the 5th nearest of 1000 true samples over that of the data (1 is the data)"


def bed(seed: int) -> Mixture:
    """Six common components and a rare one in eight dimensions."""
    base = Mixture.random(VP(), 8, 7, 0.4, seed)
    common = (1 - RARE) * base.weights[:6] / base.weights[:6].sum()
    return replace(base, weights=torch.cat([common, torch.tensor([RARE], dtype=torch.float64)]))


def neighbours(x: Tensor, real: Tensor) -> float:
    return torch.cdist(x, real).kthvalue(5, 1).values.mean().item()


def measured(mixture: Mixture, x: Tensor, seed: int) -> tuple[float, ...]:
    x, real = x.double(), mixture.sample(4000, seed + 30)
    each = torch.stack([mixture.log_density(x, 0.0, {"label": torch.full((len(x),), k)}) for k in range(7)], 1)
    low, tail = mixture.log_density(real).quantile(torch.tensor([0.01, 0.1], dtype=torch.float64))
    density = mixture.log_density(x)
    rare = (each + mixture.weights.log()).argmax(1) == 6
    return (rare.double().mean().item(), (density > low).double().mean().item(), (density < tail).double().mean().item(),
            neighbours(x, real[:1000]) / neighbours(real[1000:2000], real[:1000]))  # fmt: skip


def component(mixture: Mixture, x: Tensor, place: Tensor) -> Tensor:
    """The exact predictor of the component from x_t at the size of the data, log p [B, 7]."""
    t = mixture.process.time(2 * ((1 - place).log() - place.log()))
    levels = mixture.process.at(t, x)
    x = x * (levels.a**2 * STD**2 + levels.s**2).sqrt() / STD
    each = [mixture.log_density(x, t, {"label": torch.full((len(x),), k)}) for k in range(7)]
    return torch.stack(each, 1) + mixture.weights.log().to(x)


def ways(mixture: Mixture, own: Tensor, quick: bool) -> dict:
    """(kind, name, cost) -> guidances, controllers."""
    def learned(place: float) -> nn.Module:
        scores = minority_score(mixture, own, place, 3)
        return learn_levels(mixture.process, own, quantiles(scores), 150 if quick else 1000, std=STD)

    def score(x: Tensor, cond: object) -> Tensor:
        return minority_score(mixture, x, PLACE, 3)

    net = learned(PLACE)
    found = {("method", f"guided, {STRENGTH:g}", f"{STEPS} calls and the predictor"): ((Minority(net, STRENGTH, std=STD),), ()),
             ("natural", "plain", f"{STEPS} calls"): ((), ()),
             ("equal-cost", f"best of {BUDGET} by the score", f"{BUDGET * (STEPS + 3)} calls"): ((), (BestOfN(score, BUDGET),)),
             ("reference", "guided, 1", ""): ((Minority(net, 1.0, std=STD),), ()),
             ("reference", f"guided to the most usual, {STRENGTH:g}", ""): ((Minority(net, STRENGTH, 0, std=STD),), ()),
             ("reference", "guided, 1, by the exact predictor of the component", ""):
                 ((Minority(lambda x, place: component(mixture, x, place), 1.0, 6, std=STD),), ())}  # fmt: skip
    if not quick:
        found |= {("reference", f"guided, {w:g}, scores at {place}", ""): ((Minority(learned(place), w, std=STD),), ())
                  for place in (0.3, 0.75) for w in (1.0, STRENGTH)}  # fmt: skip
    return found


def run(quick: bool = True) -> Evidence:
    """Five mixtures. The model's own samples are scored, not the data."""
    found: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for seed in range(5):
        mixture, count = bed(seed), 150 if quick else 1000
        own = sample(mixture, (1000 if quick else 4000, 8), DPMpp2M(), STEPS, seed=seed + 60, rule="karras")
        for key, (rules, controllers) in ways(mixture, own, quick).items():
            x = sample(guide(mixture, *rules), (count, 8), DPMpp2M(), STEPS, seed=seed, rule="karras", controllers=controllers)
            found.setdefault(key, []).append(measured(mixture, x, seed))
    rows = [Row(name, kind, metric, v, cost) for (kind, name, cost), each in found.items()
            for metric, v in zip((SHARE, STAYS, TAIL, COVER), zip(*each))]  # fmt: skip
    mine, plain, best = (next(r for r in rows if r.kind == k and r.metric == SHARE) for k in ("method", "natural", "equal-cost"))
    more = mine.mean >= 3 * plain.mean and mine.mean > best.mean
    return Evidence(CLAIM, rows, verdict(more and rows[1].mean >= 0.9, more), f"Scores at flow time {PLACE}, 3 draws, 10 levels.")
