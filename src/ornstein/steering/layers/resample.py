"""Weights of particles and who survives: every sample has n particles of its own, and nothing passes between samples.

The particle engine of the room. After a step from t to s the denoiser has said x0hat(x_t), so that x_t can be judged only
then. `branch` chooses among the x_t as if it had been done before the step: the first copy of a particle keeps the x_s that
the solver gave it, every further copy draws its own from the process's posterior q(x_s | x_t, x0hat(x_t)). Copies so part
at once, under a deterministic solver too. All randomness is that of the rows' own NoiseSource.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource, pick_token
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import State
from ornstein.core.prediction import DISCRETE, Prediction

from .particles import scores

__all__ = ["CHOICE", "LOOK", "PART", "RULES", "ancestors", "branch", "choice", "numbers", "redraw", "values", "weigh"]

CHOICE, LOOK, PART = 1 << 24, 1 << 25, 1 << 26  # draw numbers, far above those of solvers, which count their steps
RULES = ("systematic", "multinomial")
FLOOR = -1e9  # the reward of what has none, so that sums of rewards stay numbers


def values(reward: Callable[[Tensor, Any], Tensor], now: State, looks: int = 1) -> Tensor:
    """The reward [M] of what the denoiser said x_0 is, in the step that led to `now`; float64 on the host.

    For tokens, whose prediction is a law and no sample: the mean over `looks` draws from it.
    """
    said = now.said
    if said is None:
        raise OrnsteinError("the solver asked the denoiser nothing in this step", "Steering judges x0 as predicted.")
    if said.kind != DISCRETE:
        return _score(reward, said.x0, now)
    drawn = (_tokens(now, said, LOOK + now.step * looks + k) for k in range(looks))
    return torch.stack([_score(reward, x0, now) for x0 in drawn]).mean(0)


def _score(reward: Callable, x0: Tensor, now: State) -> Tensor:
    return scores(reward, x0, now.cond).cpu().clamp_min(FLOOR)


def _tokens(now: State, said: Prediction, key: int) -> Tensor:
    """A draw of x_0 from the logits, every token by itself; those that are seen stay."""
    drawn = _pick(said.logits.double().softmax(-1), now.noise, key)
    mask = getattr(now.process, "mask", None)
    return drawn if mask is None else torch.where(said.x == mask, drawn, said.x)


def _pick(chances: Tensor, noise: NoiseSource, key: int) -> Tensor:
    """One token [B, ...] each by chances [B, ..., K]."""
    return pick_token(chances, noise.uniform(key, chances.shape[1:-1], chances.device))


def weigh(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Log weights [B, n] -> weights of sum 1, and the effective sample size 1 / sum of their squares, [B]."""
    weights = logs.double().softmax(1)
    return weights, 1 / weights.square().sum(1)


def numbers(state: State, n: int, count: int, key: int) -> Tensor:
    """`count` numbers in (0, 1) for each sample, [B, count], from the stream of its first particle."""
    return NoiseSource(state.noise.keys[::n]).uniform(CHOICE + key, (count,)).cpu()


def ancestors(weights: Tensor, u: Tensor, rule: str = "systematic") -> Tensor:
    """Which particle each of n heirs comes from, int [B, n]. weights: [B, n] of sum 1; u: [B, n] numbers in (0, 1).

    systematic: n points a distance 1/n apart, of one random offset, so that a particle of weight w has n w heirs, rounded
    up or down; multinomial: independent draws.
    """
    if rule not in RULES:
        raise unknown("rule of resampling", rule, RULES)
    n = weights.shape[1]
    points = (torch.arange(n) + u[:, :1]) / n if rule == "systematic" else u
    return torch.searchsorted(weights.cumsum(1), points.contiguous(), right=True).clamp_max(n - 1)


def choice(weights: Tensor, u: Tensor) -> Tensor:
    """One of n by weights [B, n] and a number in (0, 1) each, u [B, 1]; int [B]."""
    return ancestors(weights, u, "multinomial")[:, 0]


def branch(now: State, chosen: Tensor, before: State) -> State:
    """The heirs `chosen` int [B, n] of each sample's own particles; copies part. before: the samples as they began.

    Every row gets a fresh stream of noise, so that no sample's depends on whether its neighbours were resampled.
    """
    samples, n = chosen.shape
    rows = (chosen + n * torch.arange(samples)[:, None]).flatten()
    taken = now.take(rows, now.step)
    copy = (chosen[:, :, None] == chosen[:, None]).tril(-1).any(2).flatten()
    again = redraw(taken, PART + now.step)
    x = torch.where(copy.to(again.device).reshape(-1, *[1] * (again.ndim - 1)), again, taken.x)
    return replace(taken, x=x, ids=tuple((i, now.step, p) for i in before.ids for p in range(n)))


def redraw(now: State, key: int) -> Tensor:
    """x_s drawn again from q(x_s | x_t, x0hat), t where the denoiser was last asked and s the time of `now`; like now.x."""
    said, process = now.said, now.process
    t, s = said.levels.t, now.times[now.step]
    if said.kind == DISCRETE:
        return _pick(process.posterior(said.x, said.logits.double().softmax(-1), t, s), now.noise, key)
    mean, std = process.posterior(said.x, said.x0, t, s)
    return (mean + std * now.noise.draw(key, mean)).to(now.x.dtype)
