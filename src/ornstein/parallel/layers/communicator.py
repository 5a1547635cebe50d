"""What ranks talk through: one protocol, in-process threads (tests, simulation) or torch.distributed behind it.

`sent` counts the bytes of payload that this rank handed over to other ranks: an all-gather over N ranks sends its
rows N - 1 times (what a ring or a tree makes of it on the wire differs).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["Communicator", "Distributed", "Simulated", "simulate"]


class Communicator(Protocol):
    """One rank's end. Every rank must make the same calls in the same order."""

    rank: int
    size: int
    sent: int  # bytes handed to other ranks so far

    def gather_rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Everybody's rows [counts[r], ...], in the order of the ranks, on every rank. Counts are known to all."""


def _lost(rank: int, why: object) -> OrnsteinError:
    return OrnsteinError(f"rank {rank} lost the others while gathering ({str(why).splitlines()[0][:200]})",
                         "A rank died or is too slow: look at its own output, or raise the timeout.")  # fmt: skip


def _check(rank: int, rows: Tensor, counts: Sequence[int], size: int) -> None:
    if len(counts) != size or len(rows) != counts[rank]:
        raise OrnsteinError(f"rank {rank} of {size} brings {len(rows)} rows where counts say {list(counts)}",
                            "Give one count per rank, the same on all ranks.")  # fmt: skip


class Distributed:
    """torch.distributed on a group that is already there (the caller's init_process_group with its own timeout)."""

    def __init__(self, group: Any = None) -> None:
        import torch.distributed as dist

        if not dist.is_initialized():
            raise OrnsteinError(
                "torch.distributed has not been started", "Call Distributed.start(...) or init_process_group."
            )
        self.group, self.rank, self.size, self.sent = group, dist.get_rank(group), dist.get_world_size(group), 0

    @classmethod
    def start(cls, rank: int, size: int, init: str, timeout: float = 60.0, backend: str = "gloo") -> Distributed:
        """Join `size` processes that meet at `init` ('file:///...' or 'tcp://host:port'). timeout in seconds, for
        every call."""
        import torch.distributed as dist

        try:
            dist.init_process_group(
                backend, init_method=init, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
            )
        except (RuntimeError, TimeoutError) as error:
            raise _lost(rank, error) from error
        return cls()

    def gather_rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        import torch.distributed as dist

        _check(self.rank, rows, counts, self.size)
        most = max(counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        try:
            dist.all_gather(parts, padded, group=self.group)
        except (RuntimeError, TimeoutError) as error:
            raise _lost(self.rank, error) from error
        self.sent += padded.numel() * padded.element_size() * (self.size - 1)  # the padding travels too
        return torch.cat([part[:n] for part, n in zip(parts, counts)])


class Simulated:
    """A rank that is a thread of this process."""

    def __init__(self, rank: int, board: list, barrier: threading.Barrier) -> None:
        self.rank, self.size, self.sent = rank, len(board), 0
        self._board, self._barrier = board, barrier

    def gather_rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        _check(self.rank, rows, counts, self.size)
        self._board[self.rank] = rows
        self._meet()
        everything = torch.cat(list(self._board))
        self._meet()  # nobody writes again before all have read
        self.sent += rows.numel() * rows.element_size() * (self.size - 1)
        return everything

    def _meet(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError as error:
            raise _lost(self.rank, "a rank stopped, or the timeout passed") from error


def simulate(size: int, work: Callable[[Communicator], Any], timeout: float = 60.0) -> list[Any]:
    """work(communicator) on `size` ranks, as threads; their results in order. The first failure that is not a mere
    consequence of another one is raised; ranks left waiting give up at once, or after `timeout` seconds."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=timeout)
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def live(rank: int) -> None:
        try:
            results[rank] = work(Simulated(rank, board, barrier))
        except BaseException as error:  # noqa: B036 - handed to the caller below
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=live, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
