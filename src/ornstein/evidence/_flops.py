"""Counted operations, of evidence and cost. torch's own FlopCounterMode brings the compiler in, whose import takes a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

__all__ = ["Flops", "Mode"]


class Mode(TorchDispatchMode):
    """A dispatch mode that is not to be compiled: torch then leaves its compiler out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Flops:
    """with Flops() as counted: FLOPs by the path of the module they are of; all of them are `counted.total`.

    Formulas are torch's, for matrix products, convolutions and attention; `more` has some by operation.
    """

    def __init__(self, more: Mapping[Any, Callable[..., int]] | None = None) -> None:
        self.formulas, self.found, self.modules = flop_registry | dict(more or {}), Counter(), ModuleTracker()
        self.mode = _Counting(self)

    @property
    def total(self) -> int:
        return self.found["Global"]

    def __enter__(self) -> Flops:
        self.modules.__enter__()
        self.mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)
        self.modules.__exit__(*error)


class _Counting(Mode):
    def __init__(self, counted: Flops) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, formula = kwargs or {}, self.counted.formulas.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=out)
            self.counted.found.update(dict.fromkeys(self.counted.modules.parents, count))
        return out
