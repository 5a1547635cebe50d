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

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State

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
        if not isinstance(self.budget, int) or self.budget < 1:
            raise OrnsteinError(
                f"budget={self.budget!r} is not a positive whole number", "Ask for at least 1 trajectory."
            )

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...], the particles of a sample side by side."""
        if self.budget == 1:
            return state
        batch, n = len(state.ids), self.budget
        index = torch.arange(batch).repeat_interleave(n)
        first = torch.arange(batch * n) % n == 0
        taken = state.take(index)
        keys = torch.where(first.to(taken.noise.keys.device), state.noise.gather(index).keys, taken.noise.keys)
        noise = NoiseSource(keys)
        start = state.process.prior(noise.draw(-1, taken.x))
        x = torch.where(first.to(start.device).reshape(-1, *[1] * (start.ndim - 1)), taken.x, start)
        ids = tuple((i, particle) for i in state.ids for particle in range(n))
        return replace(taken, x=x, ids=ids, noise=noise, facts=state.facts | {FACT: {"before": state}})

    def end(self, state: State) -> State:
        """[B * budget, ...] -> the winners [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        before = state.facts[FACT]["before"]
        rewards = self.reward(state.x, state.cond)
        if rewards.shape != (len(state.ids),):
            raise OrnsteinError(
                f"the reward gave {tuple(rewards.shape)} for {len(state.ids)} samples", "Give one number each."
            )
        rewards = rewards.double().nan_to_num(nan=-torch.inf).reshape(-1, self.budget)
        chosen = rewards.argmax(1)
        rows = chosen + torch.arange(len(chosen), device=chosen.device) * self.budget
        won = state.take(rows)
        facts = state.facts | {FACT: {"rewards": rewards, "chosen": chosen}}
        noise = state.noise.gather(rows)
        return replace(won, ids=before.ids, cond=before.cond, noise=noise, facts=facts)
