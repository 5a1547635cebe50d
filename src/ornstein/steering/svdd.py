"""SVDD: at each step several candidates, of which one is drawn by the soft value of what it is about to become.

Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding, Xiner Li, Yulai Zhao,
Chenyu Wang, Gabriele Scalia, Gokcen Eraslan, Surag Nair, Tommaso Biancalani, Shuiwang Ji, Aviv Regev, Sergey Levine,
Masatoshi Uehara, 2024, arXiv:2408.08252 (algorithm 1): of candidates x_s^1..x_s^M from p(x_s | x_t), the m-th is kept with

    probability proportional to exp(v(x_s^m) / alpha),   v(x_s) = alpha log E[exp(r(x_0) / alpha) | x_s],

here v(x_s) = r(x0hat(x_s)), the paper's estimate without training. The winner's own evaluation is the next step's, so that
M candidates cost M network calls a step, and M rewards. No gradient of the reward is asked for.
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
from .layers.resample import FLOOR, branch, choice, numbers, values, weigh

__all__ = ["SVDD"]

FACT = "svdd"


@dataclass(frozen=True)
class SVDD(Controller):
    """State.facts['svdd']: 'rewards' [B, budget] of the last candidates, 'values' and 'ess' [B, points] of those kept and of
    the weights at each choice, 'chosen' int [B] at the end, 'calls' rewards asked for a sample."""

    reward: Callable[[Tensor, Any], Tensor]  # (x0 [M, ...], cond of M rows) -> [M], higher is better, row by row
    budget: int = 1  # M, candidates per step; 1 = the plain sampler. The paper's: 10, of images 20
    alpha: float = 0.0  # temperature in units of the reward; 0: the best candidate, as the paper decodes
    window: tuple[float, float] = (0.0, 1.0)  # share of the steps within which to choose
    looks: int = 4  # draws of x_0 that the value of tokens is the mean of

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not self.alpha >= 0:
            raise OrnsteinError(f"alpha={self.alpha} is negative", "Give 0 for the best candidate, or more.")
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise OrnsteinError(f"window={self.window} is no stretch of the steps", "Give two shares, such as (0.3, 1).")

    def begin(self, state: State) -> State:
        """[B, ...] -> [B * budget, ...]: the first candidates are starts, the plain sample's among them."""
        if self.budget == 1:
            return state
        started = expand(state, self.budget)
        none = torch.zeros(len(started.ids), 0, dtype=torch.float64)
        return replace(started, facts=state.facts | {FACT: {"values": none, "ess": none, "before": state}})

    def after(self, before: State, now: State) -> State:
        """Draw the winner among what the step began from; the next candidates are all its own."""
        inside = self.window[0] * now.steps < now.step <= self.window[1] * now.steps
        if self.budget == 1 or now.step <= before.step or now.step == now.steps or not inside:
            return now  # or another controller went back
        path, n = now.facts[FACT], self.budget
        found = values(self.reward, now, self.looks).reshape(-1, n)
        won, size = self._winner(found, now)
        kept = found.gather(1, won[:, None])
        path = path | {name: torch.cat([path[name], new.repeat_interleave(n)[:, None]], 1)
                       for name, new in (("values", kept[:, 0]), ("ess", size))}  # fmt: skip
        return branch(replace(now, facts=now.facts | {FACT: path}), won[:, None].expand(-1, n), path["before"])

    def _winner(self, found: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """int [B] from values [B, n], and the effective sample size of their weights."""
        if self.alpha == 0:
            return found.argmax(1), torch.ones(len(found), dtype=torch.float64)
        weights, size = weigh(found / self.alpha)
        return choice(weights, numbers(state, self.budget, 1, state.step)), size

    def end(self, state: State) -> State:
        """[B * budget, ...] -> the winners [B, ...], under their own ids again."""
        if self.budget == 1:
            return state
        path, n = state.facts[FACT], self.budget
        rewards = scores(self.reward, state.x, state.cond).cpu().clamp_min(FLOOR).reshape(-1, n)
        chosen, _ = self._winner(rewards, state)
        won = settle(state, chosen, n, path["before"])
        fact = {"rewards": rewards, "values": path["values"][::n], "ess": path["ess"][::n], "chosen": chosen,
                "calls": n * (path["ess"].shape[1] + 1)}  # fmt: skip
        return replace(won, facts=won.facts | {FACT: fact})
