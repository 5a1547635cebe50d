"""Evidence: the digits' labels can be learnt from the training split and no test digit is a copy of a training one."""

from __future__ import annotations

import torch

from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict

METRIC = "1-nearest-neighbour accuracy on the test split (higher)"


def run(quick: bool = True) -> Evidence:
    """Five seeds, each with 60 % of the training split as memory; all of it when not quick."""
    train, test = Digits("train"), Digits("test")
    x, y, queries, truth = train.images().flatten(1), train.labels, test.images().flatten(1), test.labels
    distance = torch.cdist(queries, x)
    right, wrong = [], []
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        kept = torch.randperm(len(x), generator=g)[: int(len(x) * (0.6 if quick else 1.0))]
        nearest = kept[distance[:, kept].argmin(1)]
        right.append((y[nearest] == truth).float().mean().item())
        wrong.append((y[torch.randperm(len(y), generator=g)][nearest] == truth).float().mean().item())
    copies = (distance.min(1).values == 0).float().mean().item()
    chance = (truth.bincount().max() / len(truth)).item()
    rows = [
        Row("labels of the training split", "method", METRIC, right, f"memory of {len(kept)} digits"),
        Row("the same labels, shuffled", "equal-cost", METRIC, wrong, f"memory of {len(kept)} digits"),
        Row("always the most frequent digit", "natural", METRIC, [chance]),
        Row("test digits equal to a training digit", "reference", "share (lower)", [copies]),
    ]
    learnt = min(right) > 0.9 and min(right) > 5 * max(*wrong, chance)
    return Evidence(
        "A nearest neighbour in the training split names over 90 % of the test digits, chance about 10 %, and no test "
        "digit is a copy of a training digit.", rows, verdict(learnt and copies == 0, min(right) > max(wrong)),
    )  # fmt: skip
