"""One answer from several denoisers with weights; who has no weight is not asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import gather

from .contrast import branch

__all__ = ["ask", "mixed"]

Weight = Tensor | float  # for all of the batch, or of a shape that broadcasts over the sample [B, ...]


def ask(denoisers: Sequence[Denoises], k: int, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
    """The answer of denoiser k; the first stays on the clock's branch, the others are on 'other1', 'other2', ..."""
    if denoisers[k].process != denoisers[0].process:
        raise OrnsteinError(f"denoiser {k} lives on {denoisers[k].process}, the first on {denoisers[0].process}",
                            "Put together models of the same process.")  # fmt: skip
    return denoisers[k](x, t, cond, branch(clock, f"other{k}") if k else clock)


def mixed(denoisers: Sequence[Denoises], weights: Sequence[Weight], x: Tensor, t: Any, cond: Any,
          clock: Clock) -> Prediction:  # fmt: skip
    """sum_k w_k D_k, the weights of every element of the sample summing to 1.

    A denoiser gets the rows in which it has a weight somewhere, or is not called. Combined in the kind of the first
    answer: all kinds are affine in each other with coefficients of (x, t) alone, so every kind gives the same.
    """
    total: Tensor | None = None
    for k, weight in enumerate(weights):
        each = isinstance(weight, Tensor) and weight.ndim > 0
        rows = (weight != 0).expand(x.shape).flatten(1).any(1) if each else None
        if not (bool(rows.any()) if each else float(weight) != 0):
            continue
        whole = not each or bool(rows.all())
        said = ask(denoisers, k, x, t, cond, clock) if whole else _some(denoisers, k, rows, x, t, cond, clock)
        if whole and not each and float(weight) == 1:
            return said
        if total is None:
            total, first = torch.zeros_like(x), said
            kind = said.kind
        if whole:
            total = total + weight * said.get(kind)
        else:
            index = rows.nonzero()[:, 0]
            total = total.index_add(0, index, weight.expand(x.shape)[index] * said.get(kind))
    if total is None:
        raise OrnsteinError("no denoiser has a weight", "The weights must sum to 1.")
    return Prediction(x, denoisers[0].process.at(t, x), kind, total, first.output if len(first.x) == len(x) else None)


def _some(denoisers: Sequence[Denoises], k: int, rows: Tensor, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
    """The answer about the chosen rows alone, bool [B]."""
    index, batch = rows.nonzero()[:, 0], len(x)
    ids = tuple(clock.ids[i] for i in index.tolist()) if clock.ids else ()
    few = replace(clock, ids=ids, t=gather(clock.t, index, batch))
    return ask(denoisers, k, x[index], gather(t, index, batch), gather(cond, index, batch), few)
