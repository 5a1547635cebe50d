"""The most bytes that tensors held at once during a piece of work, counted storage by storage."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Counts the storages that are made inside, from their making to their end; what a kernel uses within itself is not
    seen. peak: most bytes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {v.untyped_storage()._cdata for v in tree_iter((args, kwargs)) if isinstance(v, Tensor)}
        out = func(*args, **(kwargs or {}))
        for v in tree_iter(out):
            if isinstance(v, Tensor) and v.untyped_storage()._cdata not in given | self.known:
                self._born(v.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        mark, size = storage._cdata, storage.nbytes()
        self.known.add(mark)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, mark, size)

    def _gone(self, mark: int, size: int) -> None:
        self.known.discard(mark)
        self.now -= size


def peak(work: Callable[[], Any]) -> int:
    """Bytes that `work` needs beside what is there when it begins."""
    with Live() as live:
        work()
    return live.peak
