"""Forecasts from what was computed before: tables of values and places, row by row, and the weights of each value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.seam import Streams

__all__ = ["Table", "forecast", "lagrange", "moment", "place", "push", "series", "shared", "weighted", "wide"]

Table = dict[str, Any]  # values: streams of each remembered evaluation, newest first; at: their places [B, n]


def place(clock: Clock, like: Tensor) -> Tensor:
    """The time of each row, float64 [B]; where it differs within a sample, its mean."""
    t = torch.as_tensor(clock.t, device=like.device).to(torch.float64)
    return (t.flatten(1).mean(1) if t.ndim > 1 else t).expand(len(like))


def moment(clock: Clock, like: Tensor) -> float | Tensor:
    """The time as a number where all rows share it and it can be read without waiting for a device; else [1] or [B]."""
    t = clock.t
    if not isinstance(t, Tensor) or (t.ndim == 0 and t.device.type == "cpu"):
        return float(t)
    return place(clock, like) if t.ndim else t.to(torch.float64).view(1)


def push(table: Table | None, size: int, at: Tensor, value: Streams, rows: Tensor | None = None) -> Table:
    """The table with one more value (of `rows` alone, if given), the oldest of these rows forgotten. at: places [B].

    A new one is filled with its first value, which counts once: the weights leave out what stands twice at one place.
    """
    if rows is None:
        if table is None:
            return {"values": [value] * size, "at": at[:, None].expand(-1, size)}
        return {"values": [value, *table["values"]][:size], "at": torch.cat([at[:, None], table["at"]], 1)[:, :size]}
    values, new = [], value
    for old in table["values"]:
        values.append({k: None if v is None else v.index_copy(0, rows, new[k]) for k, v in old.items()})
        new = {k: None if v is None else v[rows] for k, v in old.items()}
    places = torch.cat([at[rows, None], table["at"][rows]], 1)[:, : len(values)]
    return {"values": values, "at": table["at"].index_copy(0, rows, places)}


def forecast(table: Table, at: Tensor, faithful: bool = False) -> Streams:
    """What would be said at places [B]: the polynomial through all, or the published series of backward differences."""
    weights = (series if faithful else lagrange)(at, table["at"]).unbind(1)
    return {k: weighted(weights, [v[k] for v in table["values"]]) for k in table["values"][0]}


def lagrange(t: Tensor, nodes: Tensor) -> Tensor:
    """Weights [B, n] at t [B] of values at nodes [B, n], newest first. A node at a newer one's time does not count:
    solvers may ask twice for one time."""
    n = nodes.shape[1]
    counts = [torch.stack([nodes[:, j] != nodes[:, i] for i in range(j)], 1).all(1) if j else t == t for j in range(n)]
    out = []
    for j in range(n):
        weight = counts[j].to(nodes)
        for i in range(n):
            if i != j:
                apart = nodes[:, j] - nodes[:, i]
                factor = (t - nodes[:, i]) / torch.where(apart == 0, 1, apart)
                weight = weight * torch.where(counts[i], factor, 1)
        out.append(weight)
    return torch.stack(out, 1)


def shared(t: float | Tensor, nodes: Sequence[float | Tensor]) -> list:
    """Lagrange's weights at one time of values at some, newest first: numbers where all times are, else [B] each."""
    rows = next((v for v in (t, *nodes) if isinstance(v, Tensor)), None)
    if rows is not None:
        t, *nodes = (v if isinstance(v, Tensor) else torch.full_like(rows, v) for v in (t, *nodes))
        t, *nodes = torch.broadcast_tensors(t, *nodes)
        return list(lagrange(t, torch.stack(nodes, 1)).unbind(1))
    counts = [node not in nodes[:j] for j, node in enumerate(nodes)]
    others = [[b for i, b in enumerate(nodes) if i != j and counts[i]] for j in range(len(nodes))]
    return [float(counts[j] and math.prod((t - b) / (a - b) for b in others[j])) for j, a in enumerate(nodes)]


def series(t: Tensor, nodes: Tensor) -> Tensor:
    """Weights [B, n] of sum_i D^i (t - node_0)^i / i!, where D^0 = F and D^{i+1} is the change of D^i from one node to the
    next over their distance; a difference that would need two nodes at one place is left out."""
    batch, n = nodes.shape
    columns = torch.eye(n, dtype=nodes.dtype, device=nodes.device).expand(batch, n, n)  # D^i at node j as weights
    there = torch.ones_like(nodes, dtype=torch.bool)
    total, factor = columns[:, 0], torch.ones_like(t)
    for i in range(1, n):
        apart = nodes[:, : n - i] - nodes[:, 1 : n - i + 1]
        there = there[:, :-1] & there[:, 1:] & (apart != 0)
        columns = (columns[:, :-1] - columns[:, 1:]) / torch.where(apart == 0, 1, apart)[..., None] * there[..., None]
        factor = factor * (t - nodes[:, 0]) / i
        total = total + factor[:, None] * columns[:, 0]
    return total


def weighted(weights: Sequence, values: Sequence[Tensor | None]) -> Tensor | None:
    """sum_j weights[j] values[j] in at least float32, one operation per value; a weight is a number or [B]."""
    first = values[0]
    if first is None:
        return None
    if isinstance(weights[0], Tensor):
        weights = [w.to(wide(first).dtype).view(-1, *[1] * (first.ndim - 1)) for w in weights]
        total = weights[0] * wide(first)
        for weight, value in zip(weights[1:], values[1:]):
            total.addcmul_(weight, wide(value))
    elif len(values) == 2 and abs(weights[0] + weights[1] - 1) < 1e-9:
        total = torch.lerp(wide(values[1]), wide(first), weights[0])
    else:
        total = wide(first) * weights[0]
        for weight, value in zip(weights[1:], values[1:]):
            total.add_(value, alpha=weight)
    return total if total.dtype == first.dtype else total.to(first.dtype)


def wide(value: Tensor) -> Tensor:
    """At least float32: differences cancel."""
    return value if value.dtype == torch.float32 else value.to(torch.promote_types(value.dtype, torch.float32))
