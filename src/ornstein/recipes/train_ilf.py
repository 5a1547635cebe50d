"""Teach Inner Loop Feedback's block to a frozen denoiser: its answers between full evaluations are those of the network.

Gwilliam et al., 2025, arXiv:2501.13107. First full trajectories are drawn, and at every evaluation what enters block a and
what the network says are kept; then f is fitted to pairs (k, j), 1 <= j < N: with the features of evaluation k it shall
answer as the network did at k + j, in mean square. x does not enter
an inner evaluation, so nothing is drawn anew. The publication trains a copy of a block on queries at less noisy times; here
the pairs are those of the sampler itself. An update costs the head, f and the last L - a blocks, forwards and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.ilf import ILF, fresh
from ornstein.acceleration.layers.forecast import place
from ornstein.acceleration.layers.spans import lead
from ornstein.core import catalog
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import Run, attach, running

__all__ = ["train_ilf", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What the feedback is for, and how long it is taught."""

    interval: int = 3  # N: the longest span
    passed: int = 0  # a; 0: all blocks
    steps: int = 40
    solver: str = "ddim"
    rule: str = "uniform"  # grid of the times
    samples: int = 192  # trajectories
    rank: int = 48  # width of f
    updates: int = 3000  # of Adam, its rate falling to 0 along a half cosine
    batch: int = 64
    lr: float = 5e-3
    seed: int = 12345


class _Watch:
    """Computes everything and keeps what leaves block a - 1. given: hand this on instead, moved to the clock's time."""

    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __init__(self, part: ILF) -> None:
        self.part, self.seen, self.given = part, [], None
        self.select, self.start = part.select, part.start

    def around(self, site: Any, clock: Any, streams: Any, run: Any, memory: dict) -> Any:
        passed = self.part.passed or site.count
        if self.given is not None and site.index < passed:
            return self.part.forecast(clock, self.given) if site.index == passed - 1 else streams
        out = run(streams)
        if self.given is None and site.index == passed - 1:
            self.seen.append({"at": place(clock, lead(out)), "out": out})
        return out


class _Listen:
    """A denoiser whose answers are kept."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.process, self.said = denoiser, denoiser.process, []

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Any = None) -> Any:
        said = self.denoiser(x, t, cond, clock)
        self.said.append(said)
        return said


def train_ilf(denoiser: Denoiser, shape: Sequence[int], cond: Callable[[torch.Generator, int], Any] | None = None,
              recipe: Recipe = Recipe()) -> Artefact:  # fmt: skip
    """The artefact 'ilf', in half precision. shape: of one sample, [C, H, W]; cond(source, batch): a dict of conditions at
    random, rows first, or None."""
    s, net = recipe, getattr(denoiser, "backbone", None)
    if s.interval < 2 or s.rank % 4 or s.rank < 4 or min(s.samples, s.updates, s.batch) < 1:
        raise OrnsteinError(f"{s}", "interval is at least 2, rank a multiple of 4, the numbers at least 1.")
    if not isinstance(net, torch.nn.Module):
        raise OrnsteinError("this denoiser has no network to put a cache on", "Give a Denoiser with a backbone, unguided.")
    source = torch.Generator().manual_seed(s.seed)
    given = cond and cond(source, s.samples)
    unit = float(grid(denoiser.process, s.steps, s.rule).diff().abs().mean())
    watch, ear = _Watch(ILF(max(s.interval, 2), s.passed)), _Listen(denoiser)
    detach = attach(net, watch)
    try:
        sample(ear, (s.samples, *shape), catalog.build("solvers", s.solver), s.steps, cond=given, seed=s.seed, rule=s.rule)
        h = torch.stack([lead(v["out"]) for v in watch.seen])
        weights = fresh(h.shape[-1], s.rank, source) | {"scale": h.diff(dim=0).float().square().mean((0, 1, 2)).sqrt()}
        del h
        made = {"interval": s.interval, "passed": s.passed, "unit": unit, "solver": s.solver, "steps": s.steps}
        found = Artefact("ilf", weights, made, describe(denoiser, s.rule, shape))
        _fit(watch, ear, found, given, s, source)
    finally:
        detach()
    return Artefact("ilf", {k: v.detach().half() for k, v in weights.items()}, made, found.made_for)


def _fit(watch: _Watch, ear: _Listen, found: Artefact, cond: Any, s: Recipe, source: torch.Generator) -> None:
    """Lower the error of the answers; the artefact's arrays change in place."""
    weights = list(found.arrays.values())
    watch.part = ILF(s.interval, s.passed, found)
    object.__setattr__(watch.part, "weights", {k: v.requires_grad_() for k, v in found.arrays.items()})
    optimiser = torch.optim.Adam(weights, s.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.updates)
    ids, calls = tuple(range(s.batch)), len(watch.seen)
    change = torch.stack([v.value for v in ear.said]).diff(dim=0).square().mean()
    for _ in range(s.updates):
        k = int(torch.randint(calls - 1, (), generator=source))
        j = min(calls - 1, k + 1 + int(torch.randint(s.interval - 1, (), generator=source)))
        rows = torch.randint(s.samples, (s.batch,), generator=source)
        old, new = watch.seen[k], ear.said[j]
        watch.given = {"at": old["at"][rows], "out": {n: v[rows] if isinstance(v, Tensor) else v for n, v in old["out"].items()}}
        t = watch.seen[j]["at"][rows]
        with torch.enable_grad(), running(Run()):
            said = ear.denoiser(new.x[rows], t, cond and {n: v[rows] for n, v in cond.items()}, Clock(t=t, ids=ids))
            loss = (said.value - new.value[rows]).square().mean() / change
            optimiser.zero_grad()
            loss.backward(inputs=weights)
        optimiser.step()
        schedule.step()
    watch.given = None
