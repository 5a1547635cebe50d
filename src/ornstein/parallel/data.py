"""Data parallelism for sampling: every rank draws its share of the samples, all ranks end up with all of them.

The oldest of all schemes (no publication claims it). What is said here is what it takes to give the very samples of
one process: noise keyed by the sample's id and never by the rank, conditions cut with the ids, uneven shares, batches
of a fixed size. Costs one gather of the finished samples; wall time is that of the largest share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Solver, sample
from ornstein.core.seam import gather

from .layers.communicator import Communicator

__all__ = ["DataParallel"]


@dataclass(frozen=True)
class DataParallel:
    """Contiguous shares whose sizes differ by one at most (of batches, where `batch` is given)."""

    communicator: Communicator
    batch: int = 0  # rows per network call. 0: the whole share; else the same calls are made on any number of ranks

    def __post_init__(self) -> None:
        if self.batch < 0:
            raise OrnsteinError(f"batch={self.batch} is negative", "0 is the whole share at once.")

    def shares(self, count: int) -> list[range]:
        """The positions 0 to count - 1 that each rank draws, in the order of the ranks; some may be empty."""
        unit, size = self.batch or 1, self.communicator.size
        units = -(-count // unit)
        ends = [min(count, unit * (units * r // size)) for r in range(size + 1)]
        return [range(a, b) for a, b in zip(ends, ends[1:])]

    def sample(self, denoiser: Denoises, shape: Sequence[int], solver: Solver, steps: int = 20, *, cond: Any = None,
               seed: int = 0, ids: Sequence[int] | None = None, rule: str | Sequence[float] = "uniform",
               dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:  # fmt: skip
        """As `core.loop.sample` with the whole batch's shape [B, ...], cond and ids, given alike on every rank."""
        count = shape[0]
        ids = tuple(range(count)) if ids is None else tuple(ids)
        if len(ids) != count:
            raise OrnsteinError(f"{len(ids)} sample ids for a batch of {count}", "Give one id per sample.")
        shares = self.shares(count)
        mine = shares[self.communicator.rank]
        parts = [torch.empty(0, *shape[1:], dtype=dtype, device=device)]
        for first in range(mine.start, mine.stop, self.batch or max(1, len(mine))):
            rows = range(first, min(mine.stop, first + (self.batch or len(mine))))
            index, own = torch.tensor(list(rows), device=device), [ids[i] for i in rows]
            parts.append(sample(denoiser, (len(rows), *shape[1:]), solver, steps, cond=gather(cond, index, count),
                                seed=seed, ids=own, rule=rule, dtype=dtype, device=device))  # fmt: skip
        return self.communicator.gather_rows(torch.cat(parts), [len(s) for s in shares])
