"""Zero-order search: a start is improved by trying its neighbours and moving to the best of them, round after round.

Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, Nanye Ma et al., 2025, arXiv:2501.09732
(section 3, Zero-Order Search): about a pivot n draw candidates of the neighbourhood, run the sampler from each, make the
best the pivot, and again. Here a candidate is

    n' = c n + sqrt(1 - c^2) z,   z from the prior,

whose cosine with the pivot is c on average and whose length stays that of the prior. Costs budget x rounds runs of the
sampler and as many rewards. The first candidate of all is the plain start, and the pivot moves only to what is better,
so no reward falls below that of the plain sample or of fewer rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State

from .layers.particles import check_budget, expand, scores, settle
from .layers.search import neighbour

__all__ = ["ZeroOrder"]

FACT = "zero_order"


@dataclass(frozen=True)
class ZeroOrder(Controller):
    """The loop goes back to its first step for each round, with fresh memory.

    State.facts['zero_order']: 'rewards' [B, budget * rounds] in the order tried, 'chosen' int [B] among them, and 'start'
    [B, ...], the start that won.
    """

    reward: Callable[[Tensor, Any], Tensor]  # (x [M, ...], cond of M rows) -> [M], higher is better, row by row
    budget: int = 1  # trajectories per sample side by side, so candidates of a round; 1 = the plain sampler
    rounds: int = 4  # times that the candidates are drawn
    similarity: float = 0.8  # c, between candidate and pivot; nearer 1 is more local, and needs more rounds

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if self.rounds < 1 or not 0 <= self.similarity < 1:
            raise OrnsteinError(f"rounds={self.rounds}, similarity={self.similarity}: no search",
                                "Give at least 1 round and a similarity from 0 to below 1.")  # fmt: skip

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...]: the plain start and neighbours of it."""
        if self.budget == 1:
            return state
        begun = expand(state, self.budget)
        pivot = state.x.repeat_interleave(self.budget, 0)
        first = (torch.arange(len(pivot)) % self.budget == 0).to(pivot.device).reshape(-1, *[1] * (pivot.ndim - 1))
        x = torch.where(first, pivot, neighbour(pivot, begun.x, self.similarity))
        facts = {"before": state, "starts": x, "rewards": None}
        return replace(begun, x=x, facts=state.facts | {FACT: facts})

    def after(self, before: State, now: State) -> State:
        """At the last step: back to the first with the next candidates, or on where the rounds are over."""
        if self.budget == 1 or now.step < now.steps:
            return now
        seen = self._scored(now)
        if seen["rewards"].shape[1] == self.budget * self.rounds:
            return replace(now, facts=now.facts | {FACT: seen})
        pivot = seen["start"].repeat_interleave(self.budget, 0)
        fresh = now.process.prior(now.noise.anew().draw(-1, pivot))  # the loop hands out the same streams
        x = neighbour(pivot, fresh, self.similarity)
        return replace(now, x=x, step=0, facts=now.facts | {FACT: seen | {"starts": x}})

    def _scored(self, now: State) -> dict[str, Any]:
        """The facts with this round's rewards, and with the best end and start of each sample so far."""
        seen = now.facts[FACT]
        rewards = scores(self.reward, now.x, now.cond).reshape(-1, self.budget)
        best, at = rewards.max(1)
        rows = at + torch.arange(len(at), device=at.device) * self.budget
        x, start = now.x[rows], seen["starts"][rows]
        if seen["rewards"] is None:
            return seen | {"x": x, "start": start, "best": best, "rewards": rewards}
        better = best > seen["best"]
        wide = better.reshape(-1, *[1] * (x.ndim - 1))
        return seen | {"x": torch.where(wide, x, seen["x"]), "start": torch.where(wide, start, seen["start"]),
                       "best": torch.where(better, best, seen["best"]),
                       "rewards": torch.cat([seen["rewards"], rewards], 1)}  # fmt: skip

    def end(self, state: State) -> State:
        """[B * budget, ...] -> the winners of all rounds [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        seen = state.facts[FACT]
        chosen = seen["rewards"].argmax(1)
        won = settle(state, torch.zeros_like(chosen), self.budget, seen["before"])
        fact = {"rewards": seen["rewards"], "chosen": chosen, "start": seen["start"]}
        return replace(won, x=seen["x"], facts=won.facts | {FACT: fact})
