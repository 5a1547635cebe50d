"""The common ground of sampling tokens: small sets of sequences with exact denoisers, and how far samples are from their law."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.testbeds import Tokens

__all__ = ["METRIC", "bed", "distances", "floor"]

METRIC = "total variation to the data's law (lower)"
LENGTH, KINDS, DATA = 10, 3, 12


def bed(seed: int, schedule: str = "linear") -> Tokens:
    """12 random sequences of 10 tokens of 3 kinds, with weights 1 to 12."""
    data = torch.randint(KINDS, (DATA, LENGTH), generator=torch.Generator().manual_seed(seed))
    process = catalog.build("processes", {"name": "masked", "tokens": KINDS, "schedule": schedule})
    return Tokens(data, process, torch.arange(1.0, DATA + 1))


def distances(solver: str, calls: int, seeds: int, n: int, schedule: str = "linear") -> list[float]:
    """Another data set and other noise for each seed; n samples."""
    part, beds = catalog.build("solvers", solver), [bed(100 + s, schedule) for s in range(seeds)]
    return [b.distance(sample(b, (n, LENGTH), part, calls, seed=s)) for s, b in enumerate(beds)]


def floor(seeds: int, n: int) -> list[float]:
    """Fresh data."""
    return [bed(100 + s).distance(bed(100 + s).sample(n, seed=s)) for s in range(seeds)]
