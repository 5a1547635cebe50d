"""What the evidence of learned accelerations shares: rows of one setting beside what else as many FLOPs buy."""

from __future__ import annotations

import math
from typing import Any

import torch

from ornstein.core.artefact import Artefact
from ornstein.evidence import Row
from ornstein.evidence.acceleration import _ground

SHAPE = (1, 8, 8)


def digits(source: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    """Labels at random, for the training."""
    return {"label": torch.randint(10, (batch,), generator=source)}


def row(name: str, kind: str, drawn: _ground.Drawn, full: torch.Tensor, metric: str, extra: float = 0.0) -> Row:
    """Relative L2 distance to `full`, one value per seed. extra: evaluations that the record does not see."""
    n = _ground.SEEDS
    gap = (drawn.x - full).reshape(n, -1).norm(dim=1) / full.reshape(n, -1).norm(dim=1)
    return Row(name, kind, metric, gap.tolist(), f"{drawn.evaluations + extra:.1f} evaluations")


def others(evaluations: float, full: torch.Tensor, metric: str, beside: str) -> list[Row]:
    """Fewer steps of ddim (natural) and of dpmpp2m (equal-cost), rounded up in their favour."""
    n = math.ceil(evaluations - 0.01)
    return [row(f"{solver}, {n} steps, beside {beside}", kind, _ground.plain("dit", n, solver), full, metric)
            for kind, solver in (("natural", "ddim"), ("equal-cost", "dpmpp2m"))]  # fmt: skip


def below(mine: Row, theirs: Row) -> bool:
    """The mean lies below, and so do most seeds."""
    wins = sum(a < b for a, b in zip(mine.values, theirs.values))
    return mine.mean < theirs.mean and wins > len(mine.values) / 2


def part(name: str, found: Artefact, **settings: Any) -> dict[str, Any]:
    """A part for the catalog with what was learned in its field."""
    field = {"harmonica": "router", "lesa": "predictor", "deediff": "heads"}[name]
    return {"name": name, field: found} | settings
