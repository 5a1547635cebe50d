"""Evidence for Black-Scholes blending: pairs of digits in one picture, judged by a classifier that did not choose."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import Denoiser, guide
from ornstein.evidence import Evidence, verdict
from ornstein.evidence._adam import Adam
from ornstein.guidance.blackscholes import BlackScholes
from ornstein.metrics.layers.digits import classifier

from ._score import before, drawn, row

STEPS, EACH, SHAPE = 10, 8, (1, 8, 8)
BOTH = "mean probability of the less present of the two digits (higher)"
EITHER = "mean probability of one or the other digit (higher)"
CLAIM = ("On pairs of digits, choosing at each step the condition with the lowest Black-Scholes price brings more of both into one "
         "picture, for a classifier that did not choose, than the mean of their embeddings, alternation, one after the other, and "
         "choice by chance, at equal network calls.")  # fmt: skip


@cache
def guide_classifier() -> tuple[Tensor, Tensor]:
    """Weights [64, 10] and bias [10] of a logistic regression on the pixels of the training digits."""
    from ornstein.data.digits import Digits

    data = Digits("train")
    x, y = data.images().flatten(1), torch.as_tensor(data.labels)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Linear(64, 10)
        optimizer = Adam(net.parameters(), 0.05)
        for _ in range(50):
            loss = nn.functional.cross_entropy(net(x), y) + 5e-4 * sum(p.square().sum() for p in net.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.weight.detach().T, net.bias.detach()


def similarity(x0: Tensor, cond: Any) -> Tensor:
    """100 times the guiding classifier's probability, [B]."""
    weight, bias = guide_classifier()
    log = (x0.float().clamp(-1, 1).flatten(1) @ weight + bias).softmax(1)
    return 100 * log.gather(1, cond["label"][:, None])[:, 0]


def by_chance(x0: Tensor, cond: Any) -> Tensor:
    """A number in (0, 1] that says nothing about the picture, from its own digits and the label."""
    return (x0.double().flatten(1).sum(1) * 1e5 + 0.37 * cond["label"]).sin().abs() + 1e-9


def blended(model: Denoiser, first: int, second: int) -> tuple[Denoiser, int]:
    """The model with one more row in its table of classes, the mean of two, and that row's label."""
    backbone = copy.deepcopy(model.backbone)
    table = backbone.condition.label_embed.weight.detach()
    mean = (table[first] + table[second])[None] / 2
    backbone.condition.label_embed = nn.Embedding.from_pretrained(torch.cat([table, mean]))
    return replace(model, backbone=backbone), len(table)


RULES = {"Black-Scholes price": ("method", "price", similarity, False),
         "alternation": ("equal-cost", "alternate", None, False), "one after the other": ("equal-cost", "parts", None, False),
         "choice by chance": ("equal-cost", "lowest", by_chance, False),
         "price with the density, as released": ("reference", "price", similarity, True)}  # fmt: skip


def judged(x: Tensor, first: int, second: int) -> tuple[float, float]:
    """Mean over pictures [N, 1, 8, 8] of the smaller of the two probabilities, and of their sum."""
    both = classifier()(x.float().clamp(-1, 1)).softmax(1)[:, [first, second]]
    return both.amin(1).mean().item(), both.sum(1).mean().item()


def run(quick: bool = True) -> Evidence:
    from ornstein.model import load

    model, found, same = load("digits-unet").denoiser, {}, False
    for seed in range(10 if quick else 40):
        first = int(torch.randint(0, 10, (), generator=torch.Generator().manual_seed(seed)))
        second = (first + 1 + (7 * seed) % 9) % 10
        cond, one = {"label": torch.full((EACH,), first)}, {"label": torch.tensor([second])}
        ends = {}
        for name, (kind, policy, spot, faithful) in RULES.items():
            if quick and kind == "reference":
                continue
            rule = BlackScholes(spot, (one,), policy, faithful=faithful)
            ends[name] = drawn(guide(model, rule), (EACH, *SHAPE), STEPS, cond, seed)
        wider, label = blended(model, first, second)
        ends["mean of the embeddings"] = drawn(wider, (EACH, *SHAPE), STEPS, {"label": torch.full((EACH,), label)}, seed)
        if seed == 0:
            lowest = guide(model, BlackScholes(similarity, (one,), "lowest"))
            same = torch.equal(ends["Black-Scholes price"], drawn(lowest, (EACH, *SHAPE), STEPS, cond, seed))
        for name, x in ends.items():
            found.setdefault(name, []).append(judged(x, first, second))
    kinds = {name: rule[0] for name, rule in RULES.items()} | {"mean of the embeddings": "natural"}
    rows = [row(name, kinds[name], metric, [v[k] for v in values], STEPS) for name, values in found.items()
            for k, metric in enumerate((BOTH, EITHER))]  # fmt: skip
    lack = {name: [-v[0] for v in values] for name, values in found.items()}
    mine = lack["Black-Scholes price"]
    past = {name: before(mine, values) for name, values in lack.items() if kinds[name] in ("natural", "equal-cost")}
    note = (f"More of both than: {', '.join(n for n, won in past.items() if won) or 'none'}. By the lowest similarity the pictures "
            f"are {'the same, bit by bit' if same else 'others'}.")  # fmt: skip
    return Evidence(CLAIM, rows, verdict(all(past.values()), past["mean of the embeddings"]), note)
