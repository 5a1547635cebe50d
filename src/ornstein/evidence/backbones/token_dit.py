"""Evidence for the TokenDiT: the shipped token model of the digits beside the continuous one, at equal calls."""

from __future__ import annotations

import torch

from ornstein.codecs.tokens import Tokens
from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import energy
from ornstein.metrics.layers.digits import predict
from ornstein.model import load

CLAIM = (
    "The digits of the shipped token model, drawn by ancestral unmasking, are recognised as their class as often as those of the "
    "continuous model 'digits' within 3 percentage points, and stand no farther from held-out digits, at 4 and at 16 calls; "
    "'partly': the share alone, at 16."
)
RIGHT, FAR = "share recognised as their class (higher)", "energy distance to held-out digits (lower)"
MODELS = {"tokens, by chance": ("digits-tokens", "unmask", "method"),
          "tokens, by confidence, spread 2": ("digits-tokens", "unmask:choose=confidence,spread=2", "reference"),
          "digits, its usual solver": ("digits", None, "equal-cost")}  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """3 seeds of 60 pictures; at length 5 of 500, up to 64 calls. All pictures on the same five grey levels."""
    seeds, n, calls = (3, 60, (4, 16)) if quick else (5, 500, (4, 8, 16, 32, 64))
    codec, data = Tokens(5), Digits("test")
    held, labels = codec.decode(codec.encode(data.images())), torch.arange(n) % 10
    rows: dict[tuple[str, int], tuple[Row, Row]] = {}
    for name, (source, solver, kind) in MODELS.items():
        model = load(source)
        for count in calls:
            right, far = [], []
            for seed in range(seeds):
                x = model.generate([str(k) for k in labels.tolist()], steps=count, solver=solver, seed=seed, batch=n).x
                x = codec.decode(x if source == "digits-tokens" else codec.encode(x))
                right.append((predict(x) == labels).double().mean().item())
                far.append(energy(x.flatten(1), held.flatten(1)))
            rows[name, count] = (Row(name, kind, RIGHT, right, f"{count} NFE"), Row(name, kind, FAR, far, f"{count} NFE"))
    real = Digits("train").images()
    fresh = [energy(codec.decode(codec.encode(real[k::17][:n])).flatten(1), held.flatten(1)) for k in range(seeds)]
    seen = Row("held-out digits", "floor", RIGHT, [(predict(held) == data.labels).double().mean().item()])
    mine, other = ({c: rows[name, c] for c in calls} for name in ("tokens, by chance", "digits, its usual solver"))
    often = {c: mine[c][0].mean >= other[c][0].mean - 0.03 for c in calls}
    near = all(mine[c][1].mean <= other[c][1].mean for c in calls)
    every = [r for pair in rows.values() for r in pair] + [seen, Row("training digits", "floor", FAR, fresh)]
    return Evidence(CLAIM, every, verdict(all(often.values()) and near, often[16]))
