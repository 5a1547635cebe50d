"""Further conditions beside the run's own, of one row each, for all samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import gather

__all__ = ["check_rows", "chosen", "one_row"]


def check_rows(others: Sequence[dict[str, Any]]) -> None:
    """OrnsteinError where a further condition has several rows."""
    for k, other in enumerate(others, 1):
        for name, value in other.items():
            if isinstance(value, Tensor) and len(value) != 1:
                raise OrnsteinError(f"'{name}' of other condition {k} has {len(value)} rows",
                                    "Give one row for all samples.")  # fmt: skip


def one_row(other: dict[str, Any], batch: int) -> dict[str, Any]:
    """The one row for each of the batch."""
    return gather(other, torch.zeros(batch, dtype=torch.long), 1)


def chosen(cond: dict[str, Any], others: Sequence[dict[str, Any]], which: Tensor) -> dict[str, Any]:
    """Of every row the condition `which` [B]: 0 is the run's own row, k the k-th of the others."""
    said = dict(cond)
    for k, other in enumerate(others, 1):
        for name, value in one_row(other, len(which)).items():
            if isinstance(value, Tensor):
                mine = (which == k).to(value.device).reshape(-1, *[1] * (value.ndim - 1))
                said[name] = torch.where(mine, value, said[name])
    return said
