"""Search over paths: trajectories are judged half-way, the best are noised again and denoised in several ways.

Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, Nanye Ma et al., 2025, arXiv:2501.09732
(section 3, Search over Paths): N starts are denoised to a level; then, in turn, each of the best is noised `forward`
in M ways, by the forward process,

    x_u = (a_u / a_t) x_t + sqrt(s_u^2 - (a_u / a_t)^2 s_t^2) z,   u > t,

all are denoised `backward` > forward, and judged by their x0 estimates; the last choice is by the finished samples.
Costs `budget` times the network calls of a run and of the stretches done again, and a reward of every x0 estimate judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State

from .layers.particles import check_budget, expand, scores, settle
from .layers.search import noised, survivors

__all__ = ["PathSearch"]

FACT = "path_search"


@dataclass(frozen=True)
class PathSearch(Controller):
    """Of the `budget` trajectories of a sample `keep` survive each choice, and are noised again in turns until there are
    `budget` of them: N = keep, M = budget / keep.

    State.facts['path_search']: 'rewards' of each choice, [B, budget] each, the last of the finished samples; 'chosen' int
    [B] among those; 'repeated' steps taken again.
    """

    reward: Callable[[Tensor, Any], Tensor]  # (x0 [M, ...], cond of M rows) -> [M], higher is better, row by row
    budget: int = 1  # trajectories per sample side by side; 1 = the plain sampler
    keep: int = 2  # survivors of a choice, at most half of the budget
    first: float = 0.25  # share of the steps before the first choice
    forward: float = 0.2  # share of the steps that are taken back, one at least
    backward: float = 0.4  # share of the steps from there to the next choice, more than taken back

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.keep < 1 or not 0 <= self.first <= 1 or not 0 < self.forward < self.backward <= 1:
            raise OrnsteinError(f"keep={self.keep}, first={self.first}, forward={self.forward}, backward={self.backward}",
                                "Keep 1 at least; give shares of the steps, and go further back than forward.")  # fmt: skip

    def _stretch(self, steps: int) -> tuple[int, int, int]:
        """Steps until the first choice, taken back, and from there to the next."""
        forward = max(1, round(self.forward * steps))
        return max(forward, round(self.first * steps)), forward, max(forward + 1, round(self.backward * steps))

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...], the particles of a sample side by side."""
        if self.budget == 1:
            return state
        facts = {"before": state, "next": self._stretch(state.steps)[0] + state.step, "rewards": ()}
        return replace(expand(state, self.budget), facts=state.facts | {FACT: facts})

    def after(self, before: State, now: State) -> State:
        """Where a choice is due: the survivors, noised again, `forward` steps up."""
        if self.budget == 1 or now.step != now.facts[FACT]["next"] or now.step >= now.steps:
            return now
        _, forward, backward = self._stretch(now.steps)
        rewards = scores(self.reward, now.said.x0, now.cond).reshape(-1, self.budget)
        seen = now.facts[FACT]
        taken = now.take(survivors(rewards, min(self.keep, self.budget // 2)), generation=len(seen["rewards"]))
        up = now.step - forward
        x = noised(now.process, taken.x, now.times[now.step], now.times[up], taken.noise.draw(-1, taken.x))
        seen = seen | {"next": up + backward, "rewards": (*seen["rewards"], rewards)}
        return replace(taken, x=x, step=up, facts=taken.facts | {FACT: seen})

    def end(self, state: State) -> State:
        """[B * budget, ...] -> the winners [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        seen = state.facts[FACT]
        rewards = scores(self.reward, state.x, state.cond).reshape(-1, self.budget)
        chosen = rewards.argmax(1)
        again = len(seen["rewards"]) * self._stretch(state.steps)[1]
        won = settle(state, chosen, self.budget, seen["before"])
        fact = {"rewards": (*seen["rewards"], rewards), "chosen": chosen, "repeated": again}
        return replace(won, facts=won.facts | {FACT: fact})
