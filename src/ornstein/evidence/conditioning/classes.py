"""Evidence: the exact denoiser of the digits is better with the right label, and worse with a wrong one."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.conditioning.classes import Classes
from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict

METRIC = "denoising MSE on held-out digits at noise 1.5 (lower)"


def run(quick: bool = True) -> Evidence:
    """The closed-form denoiser of the training digits, told the class, nothing, or a wrong class. Five noise seeds."""
    train, test, condition = Digits("train"), Digits("test"), Classes(10)
    x, y, clean = train.images().flatten(1), train.labels, test.images().flatten(1)
    told = condition(test.labels)["label"]
    wrong = condition((test.labels + 1) % 10)["label"]
    nothing = condition.null(len(test))["label"]
    values: dict[str, list[float]] = {"told": [], "nothing": [], "wrong": []}
    for seed in range(5):
        noisy = clean + 1.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        for name, label in (("told", told), ("nothing", nothing), ("wrong", wrong)):
            values[name].append((_denoise(noisy, label, x, y, 1.5) - clean).square().mean().item())
    rows = [
        Row("the label of the digit", "method", METRIC, values["told"], "1 index"),
        Row("null condition", "natural", METRIC, values["nothing"], "1 index"),
        Row("a wrong label", "equal-cost", METRIC, values["wrong"], "1 index"),
    ]
    better = [a < b for a, b in zip(values["told"], values["nothing"])]
    worse = [a > b for a, b in zip(values["wrong"], values["nothing"])]
    return Evidence(
        "The exact denoiser of the digits has a lower error when told the class than when told nothing, and a higher "
        "one when told a wrong class, for every noise seed.", rows, verdict(all(better) and all(worse), all(better)),
        "The null index admits every training digit, as a trained network's null row does.",
    )  # fmt: skip


def _denoise(noisy: Tensor, label: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """E[x | noisy, label] over the training points of the class; label 10 admits all of them."""
    weight = -torch.cdist(noisy, x).square() / (2 * sigma**2)
    barred = (label[:, None] != y[None]) & (label[:, None] < 10)
    return weight.masked_fill(barred, -torch.inf).softmax(1) @ x
