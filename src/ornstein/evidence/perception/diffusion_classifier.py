"""Evidence for the diffusion classifier: agreement with Bayes by number of pairs, times, shared noise, and class means."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import bayes, classes
from ornstein.perception.diffusion_classifier import DiffusionClassifier, Verdicts
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

CLAIM = (
    "With 200 pairs of times uniform in logSNR the verdict is that of the exact Bayes classifier in at least 95% of "
    "samples, above nearest class means from 5000 data; elimination to half the candidates keeps it within 2 points "
    "at less than two thirds of the rows, and dropping each label at 3 standard errors does so at fewer rows still; "
    "noise not shared between labels costs more than 5 points; "
    "with a trained network it reads held-out digits better than nearest class means of the training set."
)
LABELS, COUNT = 6, 64


def nearest(mixture: Mixture, x: Tensor, seed: int, data: int = 5000) -> Tensor:
    """The class whose mean over that many labelled data is nearest."""
    label = torch.arange(data) % LABELS
    drawn = mixture.sample(data, seed=seed + 500, cond={"label": label})
    means = torch.stack([drawn[label == k].mean(0) for k in range(LABELS)])
    return torch.cdist(x, means).argmin(1)


def digits(count: int, seed: int, stages: tuple = ((4, 3), (16, 1))) -> tuple[float, float, int]:
    """Accuracy on held-out digits: the shipped model as a classifier, nearest mean of the training set; rows a sample."""
    from ornstein.data.digits import Digits
    from ornstein.model import load

    held, train = Digits("test"), Digits("train")
    index = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[:count]
    x, label = held.images(index), held.labels[index]
    way = DiffusionClassifier(stages, logsnr=(-6.0, 6.0), seed=seed)
    said = way(load("digits").denoiser, x, {"label": torch.arange(10)})
    data = train.images().flatten(1)
    means = torch.stack([data[train.labels == k].mean(0) for k in range(10)])
    near = torch.cdist(x.flatten(1), means).argmin(1)
    return *((found == label).double().mean().item() for found in (said.label, near)), said.rows


def run(quick: bool = True) -> Evidence:
    """Three seeds, each with a mixture of its own: 6 labels of 2 Gaussians in 8 dimensions."""
    ways = {
        "200 pairs": DiffusionClassifier(((200, 1),)),
        "200 pairs, in stages": DiffusionClassifier(((40, 3), (100, 2), (200, 1))),
        "200 pairs, margin 3": DiffusionClassifier(((200, 1),), margin=3.0),
        "60 pairs": DiffusionClassifier(((60, 1),)),
        "20 pairs": DiffusionClassifier(((20, 1),)),
        "200 pairs, uniform in t": DiffusionClassifier(((200, 1),), "uniform"),
        "200 pairs, noise not shared": DiffusionClassifier(((200, 1),), shared=False),
    }
    every = {"label": torch.arange(LABELS)}
    agree: dict[str, list[float]] = {name: [] for name in [*ways, "nearest class mean"]}
    right: dict[str, list[float]] = {name: [] for name in [*agree, "exact Bayes"]}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(3 if quick else 20):
        mixture = classes(VP(), seed, labels=LABELS, parts=2, std=0.8)
        label = torch.arange(COUNT) % LABELS
        x = mixture.sample(COUNT, seed=seed, cond={"label": label})
        best = bayes(mixture, x, range(LABELS)).argmax(1)
        said = {"nearest class mean": nearest(mixture, x, seed)}
        for name, way in ways.items():
            got: Verdicts = way(mixture, x, every)
            said[name] = got.label
            spent[name].append(got.spent.double().mean().item())
        for name, found in said.items():
            agree[name].append((found == best).double().mean().item())
            right[name].append((found == label).double().mean().item())
        right["exact Bayes"].append((best == label).double().mean().item())
    rows_of = {name: sum(v) / len(v) for name, v in spent.items()}
    mean = {name: sum(v) / len(v) for name, v in agree.items()}
    bayesian = mean["200 pairs"] >= 0.95 and all(a > b for a, b in zip(agree["200 pairs"], agree["nearest class mean"]))
    cheap = mean["200 pairs, in stages"] > mean["200 pairs"] - 0.02
    cheap = cheap and rows_of["200 pairs, in stages"] < 2 / 3 * rows_of["200 pairs"]
    cheaper = mean["200 pairs, margin 3"] > mean["200 pairs"] - 0.02
    cheaper = cheaper and rows_of["200 pairs, margin 3"] < rows_of["200 pairs, in stages"]
    shared = mean["200 pairs, noise not shared"] < mean["200 pairs"] - 0.05
    read = [digits(20, seed) for seed in range(3)] if quick else [digits(355, 0, ((10, 4), (50, 1)))]
    reads = sum(r[0] for r in read) > sum(r[1] for r in read)
    kinds = dict.fromkeys(ways, "method") | {"nearest class mean": "natural", "exact Bayes": "reference"}
    kinds |= {"200 pairs, noise not shared": "equal-cost", "200 pairs, uniform in t": "equal-cost"}
    rows = [
        Row(name, kinds[name], metric, values, f"{rows_of[name]:.0f} rows a sample" if name in rows_of else "")
        for metric, table in (
            ("agreement with the exact Bayes classifier (higher)", agree),
            ("accuracy (higher)", right),
        )
        for name, values in table.items()
    ]
    metric = "accuracy on held-out digits (higher)"
    rows.append(Row("trained network", "method", metric, [r[0] for r in read], f"{read[0][2]} rows a sample"))
    rows.append(Row("nearest class mean", "natural", metric, [r[1] for r in read]))
    return Evidence(CLAIM, rows, verdict(bayesian and cheap and cheaper and shared and reads, bayesian))
