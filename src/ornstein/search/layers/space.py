"""The schedules within reach of a start: other times, other decisions per step, other blocks to skip at the same cost."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ornstein.core.errors import OrnsteinError
from ornstein.search.layers.ledger import Candidate

__all__ = ["Space", "candidate"]

KNOWN = {"times", "decisions", "blocks"}


@dataclass(frozen=True, eq=False)
class Space:
    """Times lie on the start's own ladder, `fine` to a step, so that a ladder in log-SNR stays one. Where the start has
    `blocks`, a schedule with more steps skips as many blocks as keep the number computed at the start's."""

    start: Candidate
    choices: tuple[int, ...] = ()  # options of each column of `decisions`
    fine: int = 40

    def __post_init__(self) -> None:
        times = self.start.get("times")
        if times is None or times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
            raise OrnsteinError("the start of a search has no times that decrease", "Give 'times', [steps + 1].")
        if set(self.start) - KNOWN:
            what = f"a schedule of {', '.join(sorted(set(self.start) - KNOWN))}"
            raise OrnsteinError(what, f"It is made of {', '.join(sorted(KNOWN))}.")
        if any(len(self.start[k]) != self.steps for k in ("decisions", "blocks") if k in self.start):
            raise OrnsteinError("decisions or blocks of the start have not one row per step", "Give [steps, ...].")

    @property
    def steps(self) -> int:
        return len(self.start["times"]) - 1

    def admit(self, other: Candidate) -> Candidate:
        """A further start, if it is of the same parts and, but for blocks, of as many steps."""
        if set(other) != set(self.start) or ("blocks" not in other and len(other["times"]) != self.steps + 1):
            mine, its = (f"{', '.join(sorted(c))} of {len(c['times']) - 1} steps" for c in (self.start, other))
            raise OrnsteinError(f"a further start has {its}, the start {mine}", "Give starts of one kind.")
        return other

    def limit(self) -> int:
        """Blocks that the start computes."""
        return int((~self.start["blocks"]).sum())

    def place(self, time: float) -> float:
        """Where a time lies on the ladder, in steps of the start."""
        given = self.start["times"].tolist()
        k = min(max(sum(v >= time for v in given) - 1, 0), self.steps - 1)
        return k + (given[k] - time) / (given[k] - given[k + 1])

    def _times(self, inner: set[float], steps: int, source: random.Random) -> torch.Tensor:
        """`steps - 1` inner times, filled up from the ladder or thinned at random, between the start's ends."""
        given, inner = self.start["times"].tolist(), set(inner) - {None}
        while len(inner) > steps - 1:
            inner.remove(source.choice(sorted(inner)))
        if steps - 1 > self.steps * self.fine - 1:
            raise OrnsteinError(f"{steps} steps on a ladder of {self.steps * self.fine}", "Make the ladder finer.")
        while len(inner) < steps - 1:
            k, part = divmod(source.randrange(1, self.steps * self.fine), self.fine)
            inner.add(given[k] + (given[k + 1] - given[k]) * part / self.fine)
        return torch.tensor([given[0], *sorted(inner, reverse=True), given[-1]], dtype=torch.float64)

    def _near(self, times: list[float], k: int, source: random.Random) -> float:
        """A time between the neighbours of the k-th, on the ladder where there is room."""
        low, high = (self.place(times[j]) * self.fine for j in (k - 1, k + 1))
        rungs = range(int(low + 1e-6) + 1, int(high + 1 - 1e-6))
        if not rungs:
            return times[k]
        j, part = divmod(source.choice(rungs), self.fine)
        given = self.start["times"].tolist()
        return given[j] + (given[j + 1] - given[j]) * part / self.fine if j < self.steps else times[k]

    def draw(self, source: random.Random, steps: int | None = None) -> Candidate:
        """A schedule at random. steps: more than the start's only where it has blocks to skip instead."""
        steps = steps or self.steps
        out: Candidate = {"times": self._times(set(), steps, source)}
        if "decisions" in self.start:
            rows = [[source.randrange(n) for n in self.choices] for _ in range(steps)]
            out["decisions"] = torch.tensor(rows, dtype=torch.int64)
        if "blocks" in self.start:
            out["blocks"] = self._cut(torch.zeros(steps, self.start["blocks"].shape[1], dtype=torch.bool), source)
        return out

    def _cut(self, blocks: torch.Tensor, source: random.Random) -> torch.Tensor:
        """Skip further blocks, or compute some again, at random until the cost is the start's."""
        flat, rest = blocks.flatten().tolist(), int((~blocks).sum()) - self.limit()
        pool = [i for i, skipped in enumerate(flat) if skipped == (rest < 0)]
        for i in source.sample(pool, min(abs(rest), len(pool))):
            flat[i] = rest > 0
        return torch.tensor(flat).reshape(blocks.shape)

    def mutate(self, one: Candidate, rate: float, source: random.Random, near: bool = True) -> Candidate:
        """Each entry drawn anew with probability `rate`. near: a time between its neighbours, else anywhere."""
        times, steps = one["times"].tolist(), len(one["times"]) - 1
        for k in range(1, steps):
            if source.random() < rate:
                times[k] = self._near(times, k, source) if near else None
        out = one | {"times": self._times(set(times[1:-1]), steps, source)}
        if "decisions" in one:
            rows = [[source.randrange(n) if source.random() < rate else v for v, n in zip(row, self.choices)]
                    for row in one["decisions"].tolist()]  # fmt: skip
            out["decisions"] = torch.tensor(rows, dtype=torch.int64)
        if "blocks" in one:
            flips = torch.tensor([source.random() < rate for _ in range(one["blocks"].numel())])
            out["blocks"] = self._cut(one["blocks"] & ~flips.reshape(one["blocks"].shape), source)
        return out

    def cross(self, one: Candidate, other: Candidate, source: random.Random) -> Candidate:
        """Each step from one of two schedules of as many steps; else the first of them."""
        steps = len(one["times"]) - 1
        if len(other["times"]) - 1 != steps:
            return one
        pick = torch.tensor([source.random() < 0.5 for _ in range(steps)])
        out = {k: torch.where(pick[:, None], v, other[k]) for k, v in one.items() if k != "times"}
        inner = torch.where(pick[1:], one["times"][1:-1], other["times"][1:-1])
        out["times"] = self._times(set(inner.tolist()), steps, source)
        return out | ({"blocks": self._cut(out["blocks"], source)} if "blocks" in out else {})

    def stretch(self, one: Candidate, steps: int, source: random.Random) -> Candidate:
        """A schedule with other steps: inserted half way or left out, and blocks skipped so that it costs the same."""
        keep, times = list(range(len(one["times"]) - 1)), one["times"].tolist()
        while len(keep) > steps:
            k = source.randrange(1, len(keep))
            keep.pop(k)
            times.pop(k)
        while len(keep) < steps:
            k = source.randrange(len(keep))
            keep.insert(k + 1, keep[k])
            times.insert(k + 1, (times[k] + times[k + 1]) / 2)
        out = {k: v[keep] for k, v in one.items() if k != "times"} | {"times": torch.tensor(times, dtype=torch.float64)}
        return out | ({"blocks": self._cut(out["blocks"], source)} if "blocks" in out else {})


def candidate(given: Mapping[str, Any]) -> Candidate:
    """A schedule from lists or tensors, in the types that searches keep."""
    kinds = {"times": torch.float64, "decisions": torch.int64, "blocks": torch.bool}
    return {k: torch.as_tensor(v, device="cpu").to(kinds.get(k, torch.float64)).contiguous() for k, v in given.items()}
