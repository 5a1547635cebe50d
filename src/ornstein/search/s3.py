"""S3: search for a solver schedule with a cheap predictor of its score, in stages that close in on the best.

A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic Models, Liu, Ning, Lin, Yang, Wang, 2023,
arXiv:2312.07243 (section 4). A candidate is a time and a decision tuple per step. First schedules at random and known ones
are scored; then each stage fits the predictor to all scores so far, lets it rank many mutants and crossings of the best,
and scores the first of them truly. The predictor here is a Gaussian process over the schedule's entries, fitted to ranks:
mean(c) = k(c, C) (K + s^2 I)^-1 y. Costs `budget` evaluations and one small solve per stage.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.search.layers.ledger import Candidate, Ledger, mark
from ornstein.search.layers.space import Space, candidate

__all__ = ["S3"]


@dataclass(frozen=True)
class S3:
    """Finds `times` and `decisions`; `usf:schedule=FILE` walks on them."""

    budget: int = 150  # schedules that are scored, the start included
    seed: int = 0
    pool: int = 30  # scored before the first stage: half mutants of the starts, half at random
    batch: int = 10  # scored per stage
    proposals: int = 200  # ranked by the predictor per stage; equal to `batch`: no predictor, plain evolution
    top: int = 10  # that have offspring
    rate: float = 0.2  # chance of each entry to be drawn anew in a mutant
    noise: float = 0.1  # s: how far ranks are believed
    choices: tuple[int, ...] = (2, 3, 2, 2, 2)  # options of each column of decisions: USF's
    fine: int = 40  # rungs of the ladder of times per step of the start

    def __post_init__(self) -> None:
        if self.proposals < self.batch or min(self.batch, self.top) < 1 or not 0 < self.rate <= 1:
            raise OrnsteinError(f"{self!r} is no search", "proposals >= batch >= 1, top >= 1, 0 < rate <= 1.")

    def run(self, evaluate: Callable[[Candidate], float], start: Mapping[str, Any], *,
            others: Sequence[Mapping[str, Any]] = (), progress: Callable[[int, int, float], None] | None = None,
            resume: Artefact | None = None, made_for: Mapping[str, str] | None = None) -> Artefact:  # fmt: skip
        """The best schedule that was found, as an Artefact of kind 'schedule'; its arrays hold all scores too.

        evaluate(candidate): lower is better. start: {'times': [steps + 1], 'decisions': [steps, K]}, decisions if wanted;
        others: known schedules of as many steps; progress(done, budget, best): called after each.
        resume: what an earlier run with the same start, settings and evaluate answered. made_for: of core.describe.
        """
        start, source = candidate(start), random.Random(self.seed)
        space = Space(start, tuple(self.choices), self.fine)
        known = [space.admit(candidate(o)) for o in others]
        if "blocks" in start:
            raise OrnsteinError("S3 does not search blocks", "Search with autodiffusion.")
        ledger = Ledger.open(self, evaluate, start, progress, resume)
        for one in (start, *known):
            ledger.ask(one)
        for k in range(self.pool):
            if ledger.spent:
                break
            near = lambda: space.mutate(source.choice([start, *known]), self.rate, source)  # noqa: E731
            one = ledger.fresh(near if k % 2 else lambda: space.draw(source))
            if one is not None:
                ledger.ask(one)
        while not ledger.spent:
            asked = [ledger.ask(one) for one in self._stage(space, ledger, source)]
            if not any(asked):
                break
        return ledger.found(self, made_for)

    def _stage(self, space: Space, ledger: Ledger, source: random.Random) -> list[Candidate]:
        """The next schedules to score, by the predictor."""
        parents = [c for _, c in ledger.best(self.top)]

        def child() -> Candidate:
            one = source.choice(parents)
            one = space.cross(one, source.choice(parents), source) if source.random() < 0.3 else one
            return space.mutate(one, self.rate, source)

        found = {mark(c): c for c in (ledger.fresh(child) for _ in range(self.proposals)) if c is not None}
        pool = list(found.values())
        if len(pool) <= self.batch:
            return pool
        x = torch.stack([self._features(space, c) for c in pool])
        seen = torch.stack([self._features(space, c) for _, c in ledger.scored])
        scores = torch.tensor([s for s, _ in ledger.scored], dtype=torch.float64)
        guess = _predict(seen, scores.argsort().argsort().double() / len(scores), x, self.noise)
        return [pool[i] for i in guess.argsort(stable=True)[: self.batch].tolist()]

    def _features(self, space: Space, one: Candidate) -> Tensor:
        """A schedule as numbers: each time's place on the ladder and its step's length, each decision as one of many."""
        places = torch.tensor([space.place(v) for v in one["times"].tolist()], dtype=torch.float64)
        parts = [places[1:-1], places.diff().log()]
        for column, options in zip(one["decisions"].T if "decisions" in one else (), self.choices):
            parts.append(torch.nn.functional.one_hot(column, options).double().flatten())
        return torch.cat(parts)


def _predict(seen: Tensor, ranks: Tensor, x: Tensor, noise: float) -> Tensor:
    """Posterior mean of a Gaussian process, [len(x)], from ranks in [0, 1) at `seen` [n, F]."""
    scale = seen.std(0).clamp_min(1e-3)
    seen, x = seen / scale, x / scale
    length = torch.cdist(seen, seen).median().clamp_min(1e-6)
    kernel = lambda a, b: torch.exp(-0.5 * (torch.cdist(a, b) / length).square())  # noqa: E731
    inner = kernel(seen, seen) + noise**2 * torch.eye(len(seen), dtype=seen.dtype)
    return ranks.mean() + kernel(x, seen) @ torch.linalg.solve(inner, ranks - ranks.mean())
