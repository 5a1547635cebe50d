"""Rollover budget forcing: a step draws again until its candidate is better than all before; calls it saves roll over.

Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget Forcing, Jaihoon Kim, Taehoon Yoon,
Jisung Hwang, Minhyuk Sung, 2025, arXiv:2503.19385 (sections 4 and 5). Each step has a quota of network calls. Candidates
x_s are drawn one by one from p(x_s | x_t) and judged by r(x0hat(x_s)); the first above the best reward so far is taken and
the rest of the quota goes to the next step; where none is, the best candidate is taken. The first step chooses among
`starts` noises, the last spends what is left. A candidate costs one network call, the very call that its next step needs.

A flow model's ODE has one candidate only. Here the first is the solver's own, and others come from the posterior
q(x_s | x_t, x0hat) of its process, which is a step of an SDE of the same marginals. In these terms the paper's conversion
of the linear interpolant to a variance-preserving one is a change of the time grid: `converted`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core import seam
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.process import Process, grid

from .layers.merge import merge
from .layers.resample import PART, redraw, values

__all__ = ["RBF", "converted"]

FACT = "rbf"


def converted(process: Process, other: Process, steps: int, rule: str = "uniform") -> Tensor:
    """Times [steps + 1] of `process` at which its signal-to-noise ratio is that of `other` on `other`'s grid, for `rule=` of
    sample. Ancestral sampling at these is that of `other` at its own, up to a scale."""
    given = grid(other, steps, rule)
    times = process.time(other.at(given.clamp_min(1e-12), given).logsnr)
    times[0], times[-1] = process.t_max, 0.0
    return times


@dataclass(frozen=True)
class RBF(Controller):
    """State.facts['rbf']: 'used' int [B, steps] network calls of each sample, at most quota * steps in all, which is also how
    often the reward was asked; 'rewards' [B, steps] of the candidates taken. Without a reward, or at quota 1, the plain
    sampler. Samples that draw again go through the step by themselves, while the others wait; what caches and guidance remember
    is dropped at every step."""

    reward: Callable[[Tensor, Any], Tensor] | None = None  # (x0 [M, ...], cond) -> [M], higher is better, row by row
    quota: int = 1  # network calls per step and sample, on average
    starts: int | None = None  # noises that the first step chooses from, at most the quota; None: half of it, as in the paper
    rollover: bool = True  # False: what a step saves is never spent
    looks: int = 4  # draws of x_0 that the reward of tokens is the mean of

    def __post_init__(self) -> None:
        starts = 1 if self.starts is None else self.starts
        if not isinstance(self.quota, int) or isinstance(self.quota, bool) or not 1 <= starts <= self.quota:
            raise OrnsteinError(f"quota={self.quota!r} with starts={self.starts!r}", "Ask for at least 1 call; no more starts.")

    def begin(self, state: State) -> State:
        return replace(state, facts=state.facts | {FACT: self._fresh(state)})

    @staticmethod
    def _fresh(state: State) -> dict[str, Any]:
        batch = len(state.ids)
        none = torch.zeros(batch, 0, dtype=torch.float64)
        return {"used": none.long(), "rewards": none, "saved": torch.zeros(batch, dtype=torch.long), "try": None}

    def after(self, before: State, now: State) -> State:
        """Judge what the step began from: go on from it, or go back and begin from another."""
        if self.quota == 1 or self.reward is None or now.step <= before.step:  # or another controller went back
            return now
        path = now.facts[FACT]
        found = values(self.reward, now, self.looks)
        held, rows, here, used = path["try"] or (now, torch.arange(len(now.ids)), found, torch.zeros_like(found).long())
        if path["try"]:
            better = (found > here[rows]).nonzero()[:, 0]
            held = merge(_without(held), rows[better], _without(now), better)
            here = here.index_copy(0, rows, torch.maximum(here[rows], found))
        used = used.index_add(0, rows, torch.ones_like(rows))
        again = (~self._done(path, before.step, now.steps, used, here))[rows].nonzero()[:, 0]
        if not len(again):
            if (run := seam.current()) is not None:  # as where rows went back, so that no sample's cache hangs on its neighbours
                run.clear()
            saved = path["saved"] + self.quota - used if self.rollover else path["saved"]
            path = {"used": torch.cat([path["used"], used[:, None]], 1), "saved": saved, "try": None,
                    "rewards": torch.cat([path["rewards"], here[:, None]], 1)}  # fmt: skip
            return replace(held, facts=held.facts | {FACT: path})
        path = path | {"try": (held, rows[again], here, used)}
        return self._redrawn(before, again, int(used.max()), path)

    def _done(self, path: dict[str, Any], step: int, steps: int, used: Tensor, here: Tensor) -> Tensor:
        """Which samples [B] go on from the best that they have drawn."""
        spent = used >= self.quota + path["saved"]
        if step == steps - 1:
            return spent
        if step == 0:
            return used >= (self.starts or (self.quota + 1) // 2)
        return spent | (here > path["rewards"].max(1).values)

    def _redrawn(self, before: State, again: Tensor, tries: int, path: dict[str, Any]) -> State:
        """The rows `again` of the step's beginning, with another x and fresh noise."""
        batch = before.take(again, before.step * 1000003 + tries)
        x = batch.process.prior(batch.noise.draw(PART, batch.x)) if batch.said is None else redraw(batch, PART + batch.step)
        ids = tuple((path["try"][1][k].item(), before.step, tries) for k in range(len(again)))
        return replace(batch, x=x, ids=ids, facts=batch.facts | {FACT: path})

    def end(self, state: State) -> State:
        fact = state.facts[FACT]
        return replace(state, facts=state.facts | {FACT: {"used": fact["used"], "rewards": fact["rewards"]}})


def _without(state: State) -> State:
    return replace(state, facts={k: v for k, v in state.facts.items() if k != FACT})
