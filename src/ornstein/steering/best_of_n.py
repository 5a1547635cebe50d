"""Best of N: draw N samples for each, keep the one that the reward likes best.

Random search of Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, Nanye Ma et al., 2025,
arXiv:2501.09732 (section 3): x* = argmax_i reward(x_i) over N independent starts. Costs N times the network calls, in
one batch N times as large, and N rewards. Its expected reward is that of the largest of N draws of the model's own
law, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ornstein.core.loop import Controller, State

from .layers.particles import check_budget, expand, scores, settle

__all__ = ["BestOfN"]

FACT = "best_of_n"


@dataclass(frozen=True)
class BestOfN(Controller):
    """The first particle is the plain sample, so that the winner's reward never falls below it as the budget grows.

    State.facts['best_of_n']: 'rewards' [B, budget] and 'chosen' int [B].
    """

    reward: Callable[[Tensor, Any], Tensor]  # (x [M, ...], cond of M rows) -> [M], higher is better, row by row
    budget: int = 1  # trajectories per sample; 1 = the plain sampler

    def __post_init__(self) -> None:
        check_budget(self.budget)

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...], the particles of a sample side by side."""
        if self.budget == 1:
            return state
        return replace(expand(state, self.budget), facts=state.facts | {FACT: {"before": state}})

    def end(self, state: State) -> State:
        """[B * budget, ...] -> the winners [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        rewards = scores(self.reward, state.x, state.cond).reshape(-1, self.budget)
        chosen = rewards.argmax(1)
        won = settle(state, chosen, self.budget, state.facts[FACT]["before"])
        return replace(won, facts=won.facts | {FACT: {"rewards": rewards, "chosen": chosen}})
