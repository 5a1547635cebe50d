"""Rows of one state put into another: the way back from a part of the batch that went through a step again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import State
from ornstein.core.prediction import Prediction

__all__ = ["merge"]


def merge(full: State, rows: Tensor, part: State, index: Tensor) -> State:
    """`full` with rows `index` of `part` in place of its `rows` (int [R] each): sample, memory, noise, prediction and facts.
    Step, ids and condition are those of `full`. Both must have come through the same step of the same solver."""
    def put(old: Any, new: Any) -> Any:
        return _put(old, new, rows, index, len(full.ids), len(part.ids))

    return replace(full, x=put(full.x, part.x), memory=put(full.memory, part.memory), noise=put(full.noise, part.noise),
                   said=put(full.said, part.said), facts=put(full.facts, part.facts))  # fmt: skip


def _put(old: Any, new: Any, rows: Tensor, index: Tensor, full: int, part: int) -> Any:
    def inner(a: Any, b: Any) -> Any:
        return _put(a, b, rows, index, full, part)

    if isinstance(old, State):
        return old
    if isinstance(old, NoiseSource):
        return NoiseSource(inner(old.keys, new.keys))
    if isinstance(old, Prediction):
        return Prediction(inner(old.x, new.x), inner(old.levels, new.levels), old.kind, inner(old.value, new.value))
    if isinstance(old, Tensor) and old.ndim and len(old) == full:
        _same(isinstance(new, Tensor) and new.shape == (part, *old.shape[1:]))
        return old.index_copy(0, rows.to(old.device), new[index.to(new.device)])
    if isinstance(old, dict):
        _same(isinstance(new, dict) and old.keys() == new.keys())
        return {k: inner(v, new[k]) for k, v in old.items()}
    if isinstance(old, (list, tuple)):
        _same(isinstance(new, (list, tuple)) and len(old) == len(new))
        return type(old)(inner(a, b) for a, b in zip(old, new))
    if is_dataclass(old) and not isinstance(old, type):
        return replace(old, **{f.name: inner(getattr(old, f.name), getattr(new, f.name)) for f in fields(old)})
    _same(not isinstance(new, Tensor) or (isinstance(old, Tensor) and new.ndim == old.ndim))
    return old


def _same(yes: bool) -> None:
    if not yes:
        raise OrnsteinError("what a solver remembers after its first step is not what it remembers later",
                            "Draw a step again with a solver of one step, such as ddim:eta=1 or interpolant_sde.")  # fmt: skip
