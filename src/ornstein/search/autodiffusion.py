"""AutoDiffusion: evolution of the times of a sampler's steps, and of the blocks that each step leaves out.

AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated Diffusion Model Acceleration, Li,
Li, Zheng, Wu, Xiao, Wang, Zheng, Pan, Chao, Ji, 2023, arXiv:2309.10438. A candidate is (t_1 > ... > t_K; blocks skipped at
each step) with at most as many blocks computed as the start has; its fitness is any number. A generation keeps the best,
mutates them, crosses them and adds fresh ones; the first generations move the times only, later ones allow more and more
skipping, which pays for more steps. Costs `budget` evaluations of the fitness, and nothing when the schedule is used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.search.layers.ledger import Candidate, Ledger
from ornstein.search.layers.space import Space, candidate

__all__ = ["AutoDiffusion"]


@dataclass(frozen=True)
class AutoDiffusion:
    """The paper's shares of a population: half mutants, a quarter crossings, the rest fresh."""

    budget: int = 200  # schedules that are scored, the start included
    seed: int = 0
    population: int = 30  # schedules per generation (the paper: 50)
    top: int = 8  # that have offspring (the paper: 10)
    rate: float = 0.25  # chance of each entry to be drawn anew in a mutant
    first: float = 0.1  # the same in the first generation's mutants of the start
    near: bool = True  # a mutated time stays between its neighbours; False: anywhere, as published
    patience: int = 3  # generations of times alone, before blocks may be skipped
    most: float = 0.3  # share of the blocks that may be skipped in the end; reached in five generations
    fine: int = 40  # rungs of the ladder of times per step of the start

    def __post_init__(self) -> None:
        if self.population < 4 or self.top < 1 or not 0 < self.rate <= 1 or not 0 <= self.most < 1:
            raise OrnsteinError(f"{self!r} is no evolution", "population >= 4, top >= 1, 0 < rate <= 1, 0 <= most < 1.")

    def run(self, evaluate: Callable[[Candidate], float], start: Mapping[str, Any], *,
            others: Sequence[Mapping[str, Any]] = (), progress: Callable[[int, int, float], None] | None = None,
            resume: Artefact | None = None, made_for: Mapping[str, str] | None = None) -> Artefact:  # fmt: skip
        """The best schedule that was found, as an Artefact of kind 'schedule'; its arrays hold all scores too.

        evaluate(candidate): lower is better. start: {'times': [steps + 1]}, if wanted with 'blocks' [steps, L], True where
        skipped; others: further starts; progress(done, budget, best): called after each.
        resume: what an earlier run with the same start, settings and evaluate answered. made_for: of core.describe.
        """
        start = candidate(start)
        if "decisions" in start:
            raise OrnsteinError("AutoDiffusion does not search decisions", "Leave them to evaluate, or search with s3.")
        space, source = Space(start, (), self.fine), random.Random(self.seed)
        ledger = Ledger.open(self, evaluate, start, progress, resume)
        for one in (start, *(space.admit(candidate(o)) for o in others)):
            ledger.ask(one)
        for generation, draws in enumerate(self._generations(space, ledger, source)):
            asked = [ledger.ask(one) for one in (ledger.fresh(draw) for draw in draws) if one is not None]
            if ledger.spent or (generation and not any(asked)):
                break
        return ledger.found(self, made_for)

    def _generations(self, space: Space, ledger: Ledger, source: random.Random) -> Iterator[list[Callable]]:
        """For each generation the ways to draw its members."""
        half, quarter, number = self.population // 2, self.population // 4, 0
        yield [partial(space.mutate, space.start, self.first, source, self.near)] * half + [
            partial(space.draw, source)] * (self.population - half)  # fmt: skip
        while True:
            number += 1
            steps, parents = self._steps(space, number), [c for _, c in ledger.best(self.top)]
            yield ([partial(self._child, space, parents, steps, source)] * half
                   + [partial(self._crossed, space, parents, source)] * quarter
                   + [partial(self._drawn, space, steps, source)] * (self.population - half - quarter))  # fmt: skip

    def _child(self, space: Space, parents: list, steps: list, source: random.Random) -> Candidate:
        one = source.choice(parents)
        if len(steps) > 1 and source.random() < 0.3:
            one = space.stretch(one, source.choice(steps), source)
        return space.mutate(one, self.rate, source, self.near)

    def _crossed(self, space: Space, parents: list, source: random.Random) -> Candidate:
        return space.cross(source.choice(parents), source.choice(parents), source)

    def _drawn(self, space: Space, steps: list, source: random.Random) -> Candidate:
        return space.draw(source, source.choice(steps))

    def _steps(self, space: Space, generation: int) -> list[int]:
        """The numbers of steps that the skipping allowed in this generation pays for."""
        if "blocks" not in space.start or generation < self.patience:
            return [space.steps]
        share = self.most * min((generation - self.patience + 1) / 5, 1.0)
        per_step = space.start["blocks"].shape[1]
        return list(range(space.steps, max(int(space.limit() / (per_step * (1 - share))), space.steps) + 1))
