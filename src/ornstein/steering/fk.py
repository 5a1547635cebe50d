"""Feynman-Kac steering: particles of one sample, resampled on the way by the reward of what they are about to become.

A General Framework for Inference-time Scaling and Steering of Diffusion Models, Raghav Singhal, Zachary Horvitz, Ryan
Teehan, Mengye Ren, Zhou Yu, Kathleen McKeown, Rajesh Ranganath, 2025, arXiv:2501.06848 (section 3). The target is
p(x_0) exp(lambda r(x_0)); at chosen steps a particle is weighed by a potential of the intermediate reward r_t = r(x0hat(x_t)):

    difference  G_t = exp(lambda (r_t - r_before));   max  G_t = exp(lambda max_{u >= t} r_u);
    sum  G_t = exp(lambda sum_{u >= t} r_u);          at the end  G_0 = exp(lambda r(x_0)) / product of the G_t before,

so that the product along a path is exp(lambda r(x_0)). Costs `budget` times the network calls, and budget * (count + 1)
rewards a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Controller, State

from .layers.particles import check_budget, expand, scores, settle
from .layers.resample import FLOOR, RULES, ancestors, branch, choice, numbers, values, weigh

__all__ = ["FK"]

FACT = "fk"
POTENTIALS = ("max", "sum", "difference")


@dataclass(frozen=True)
class FK(Controller):
    """Weights that were not resampled are carried on. State.facts['fk']: 'weights' and 'rewards' [B, budget] at the end,
    'ess' [B, points] as found at each, 'resampled' int [B] times, 'chosen' int [B], 'calls' rewards asked for a sample."""

    reward: Callable[[Tensor, Any], Tensor]  # (x0 [M, ...], cond of M rows) -> [M], higher is better, row by row
    budget: int = 1  # particles per sample; 1 = the plain sampler. The paper's: 4
    scale: float = 10.0  # lambda, per unit of reward, as in the paper
    potential: str = "max"  # max, sum, difference
    window: tuple[float, float] = (0.2, 0.8)  # share of the steps at which to resample first and last
    count: int = 4  # how often, evenly within the window, as in the paper
    ess: float = 1.0  # resample where the effective sample size is below this share of the budget; 1: wherever weights differ
    rule: str = "systematic"  # or multinomial
    keep: str = "best"  # of the final particles: 'best' by reward, or 'draw' one by its weight, which has the target's law
    looks: int = 4  # draws of x_0 that an intermediate reward of tokens is the mean of

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for what, given, known in (("potential", self.potential, POTENTIALS), ("rule of resampling", self.rule, RULES),
                                   ("way to keep", self.keep, ("best", "draw"))):  # fmt: skip
            if given not in known:
                raise unknown(what, given, known)
        if not 0 <= self.window[0] <= self.window[1] <= 1 or self.count < 0:
            raise OrnsteinError(f"{self.count} points in window={self.window}", "Give two shares, and 0 points or more.")

    def points(self, steps: int) -> set[int]:
        """The steps after which to weigh and to resample; the last is weighed anyway."""
        at = torch.linspace(*self.window, self.count, dtype=torch.float64) * steps
        return {round(k) for k in at.tolist()} & set(range(1, steps))

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...], the particles of a sample side by side; the first is the plain sample."""
        if self.budget == 1:
            return state
        started = expand(state, self.budget)
        zero = torch.zeros(len(started.ids), dtype=torch.float64)
        path = {"seen": None, "spent": zero, "weight": zero, "ess": zero[:, None][:, :0], "resampled": zero.long()}
        return replace(started, facts=state.facts | {FACT: path | {"before": state}})

    def after(self, before: State, now: State) -> State:
        """Weigh, and resample where a sample's weights have grown uneven."""
        if self.budget == 1 or now.step <= before.step or now.step not in self.points(now.steps):
            return now  # not yet, or another controller went back
        path = now.facts[FACT]
        found = values(self.reward, now, self.looks)
        gain, seen = self._potential(found, path["seen"])
        weights, size = weigh((path["weight"] + gain).reshape(-1, self.budget))
        due = size < self.ess * self.budget * (1 - 1e-9)
        u = numbers(now, self.budget, self.budget, now.step)
        chosen = torch.where(due[:, None], ancestors(weights, u, self.rule), torch.arange(self.budget))
        rows = due.repeat_interleave(self.budget)
        path = path | {"seen": seen, "spent": path["spent"] + gain,
                       "ess": torch.cat([path["ess"], size.repeat_interleave(self.budget)[:, None]], 1),
                       "weight": torch.where(rows, 0.0, path["weight"] + gain),
                       "resampled": path["resampled"] + rows}  # fmt: skip
        return branch(replace(now, facts=now.facts | {FACT: path}), chosen, path["before"])

    def _potential(self, found: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """log G [M], and what the next one needs of the path so far."""
        if self.potential == "difference":
            return self.scale * (found if seen is None else found - seen), found
        seen = found if seen is None else torch.maximum(seen, found) if self.potential == "max" else seen + found
        return self.scale * seen, seen

    def end(self, state: State) -> State:
        """[B * budget, ...] -> one each [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        path, n = state.facts[FACT], self.budget
        rewards = scores(self.reward, state.x, state.cond).cpu().clamp_min(FLOOR)
        weights, _ = weigh((path["weight"] + self.scale * rewards - path["spent"]).reshape(-1, n))
        rewards = rewards.reshape(-1, n)
        drawn = choice(weights, numbers(state, n, 1, state.steps))
        chosen = rewards.argmax(1) if self.keep == "best" else drawn
        won = settle(state, chosen, n, path["before"])
        fact = {"weights": weights, "rewards": rewards, "ess": path["ess"][::n], "resampled": path["resampled"][::n],
                "chosen": chosen, "calls": n * (path["ess"].shape[1] + 1)}  # fmt: skip
        return replace(won, facts=won.facts | {FACT: fact})
