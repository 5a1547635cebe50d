"""Hallucination filter: a sample whose predicted x0 still moves late in the trajectory lies between modes.

Understanding Hallucinations in Diffusion Models through Mode Interpolation, Sumukh K. Aithal, Pratyush Maini, Zachary C.
Lipton, J. Zico Kolter, 2024, arXiv:2406.09358 (section 5): Hal(x) = 1/|T| sum_{t in T} (x0hat_t - mean)^2 over a window T of
the reverse steps, mean over the elements. Kept is the particle of least Hal; flagged is what exceeds a threshold. Costs
nothing to measure, `budget` times the calls to choose; two tensors like x are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State

from .layers.particles import check_budget, expand, settle

__all__ = ["Hallucination"]

FACT = "hallucination"


@dataclass(frozen=True)
class Hallucination(Controller):
    """State.facts['hallucination']: 'variance' [B] of what is kept, 'flagged' bool [B], 'tried' [B, budget] variances.

    The predictions are those of the guided denoiser, one per step (the first of a solver of several calls).
    """

    budget: int = 1  # trajectories per sample, of which the one of least variance is kept; 1: only measure and flag
    window: tuple[float, float] = (0.95, 1.0)  # share of the steps, prior 0 to data 1; two at least
    threshold: float = float("inf")  # variance above which a sample is flagged, in units of x squared

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise OrnsteinError(f"window={self.window} is no stretch of the steps", "Give two shares, such as (0.95, 1).")

    def begin(self, state: State) -> State:
        started = state if self.budget == 1 else expand(state, self.budget)
        zero = torch.zeros_like(started.x)
        return replace(started, facts=state.facts | {FACT: {"before": state, "n": 0, "mean": zero, "square": zero}})

    def after(self, before: State, now: State) -> State:
        """Welford's sums over the window."""
        sums = now.facts[FACT]
        if now.said is None or now.step <= before.step or not self._inside(now):
            return now
        x0, n = now.said.x0, sums["n"] + 1
        mean = sums["mean"] + (x0 - sums["mean"]) / n
        square = sums["square"] + (x0 - sums["mean"]) * (x0 - mean)
        return replace(now, facts=now.facts | {FACT: sums | {"n": n, "mean": mean, "square": square}})

    def _inside(self, now: State) -> bool:
        high = math.ceil(self.window[1] * now.steps)
        low = min(math.floor(self.window[0] * now.steps), high - 2)  # two steps at least
        return low < now.step <= high

    def end(self, state: State) -> State:
        sums = state.facts[FACT]
        if sums["n"] < 2:
            raise OrnsteinError(f"a run of {state.steps} steps has no variance to go by", "Take at least two.")
        tried = (sums["square"] / sums["n"]).flatten(1).mean(1).double().reshape(-1, self.budget)
        chosen = tried.nan_to_num(nan=torch.inf).argmin(1)
        kept: Tensor = tried.gather(1, chosen[:, None])[:, 0]
        fact = {"variance": kept, "flagged": ~(kept <= self.threshold), "tried": tried}
        won = state if self.budget == 1 else settle(state, chosen, self.budget, sums["before"])
        return replace(won, facts=won.facts | {FACT: fact})
