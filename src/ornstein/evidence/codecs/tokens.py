"""Evidence for tokens: what five evenly spaced grey levels leave of the digits."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.codecs.tokens import Tokens
from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.layers.digits import predict

CLAIM = (
    "Five evenly spaced grey levels of the held-out 8x8 digits stay below the stated error, and cost the classifier at most one "
    "percentage point; five levels fitted to the data cost it no less."
)
LOST = "root mean square error, pixels in [-1, 1] (lower)"
RIGHT = "share of held-out digits that the classifier recognises (higher)"
THIRDS = 3


def run(quick: bool = True) -> Evidence:
    """Three disjoint thirds of the test set of 'digits'."""
    data, fitted = Digits("test"), _lloyd(Digits("train").images().flatten(), 5)
    images, labels, codec = data.images(), data.labels, Tokens(5)
    ways = {"five even levels": ("method", codec.decode(codec.encode(images))),
            "five fitted levels (Lloyd)": ("equal-cost", fitted[(images[..., None] - fitted).abs().argmin(-1)]),
            "two levels": ("reference", Tokens(2).decode(Tokens(2).encode(images))),
            "the pixels, 17 levels": ("natural", images)}  # fmt: skip
    rows = []
    for name, (kind, seen) in ways.items():
        right, lost = (predict(seen) == labels).double(), (seen - images).square().flatten(1).mean(1)
        rows.append(Row(name, kind, LOST, [v.mean().sqrt().item() for v in (lost[k::THIRDS] for k in range(THIRDS))]))
        rows.append(Row(name, kind, RIGHT, [right[k::THIRDS].mean().item() for k in range(THIRDS)]))
    even, seen, fit, all_ = rows[0], rows[1], rows[3], rows[7]
    small, kept = max(even.values) <= codec.error, seen.mean >= all_.mean - 0.01
    return Evidence(CLAIM, rows, verdict(small and kept and fit.mean <= seen.mean, small and kept))


def _lloyd(values: Tensor, levels: int) -> Tensor:
    """The levels [K] of least square error for these values, from even ones."""
    centres = torch.linspace(-1, 1, levels)
    for _ in range(30):
        nearest = (values[:, None] - centres).abs().argmin(1)
        centres = torch.stack([values[nearest == k].mean() for k in range(levels)])
    return centres
