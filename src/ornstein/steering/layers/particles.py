"""Particles of samples: several trajectories for each, side by side, and back to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import State

__all__ = ["check_budget", "expand", "scores", "settle"]


def check_budget(budget: Any) -> None:
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise OrnsteinError(f"budget={budget!r} is not a positive whole number", "Ask for at least 1 trajectory.")


def expand(state: State, n: int) -> State:
    """[B, ...] -> [B * n, ...], the particles of a sample side by side. The first of each is the plain sample, so that the
    best of n is never worse than the best of fewer; the others start from noise of their own. OrnsteinError where the samples
    have particles already, or do not stand at the prior."""
    if any(isinstance(i, tuple) for i in state.ids):
        raise OrnsteinError("two searches in one run: each would choose among the other's trajectories",
                            "Steer by one of them, with a larger budget.")  # fmt: skip
    if state.step:
        raise OrnsteinError(f"the run begins at step {state.step}, not at the prior", "Search before teleporting.")
    batch = len(state.ids)
    index = torch.arange(batch).repeat_interleave(n)
    first = torch.arange(batch * n) % n == 0
    taken = state.take(index)
    keys = torch.where(first.to(taken.noise.keys.device), state.noise.gather(index).keys, taken.noise.keys)
    noise = NoiseSource(keys)
    start = state.process.prior(noise.draw(-1, taken.x))
    x = torch.where(first.to(start.device).reshape(-1, *[1] * (start.ndim - 1)), taken.x, start)
    return replace(taken, x=x, ids=tuple((i, p) for i in state.ids for p in range(n)), noise=noise)


def scores(reward: Callable[[Tensor, Any], Tensor], x: Tensor, cond: Any) -> Tensor:
    """reward(x, cond) as float64 [M]; what is not a number counts as the worst. Another shape: OrnsteinError."""
    found = reward(x, cond)
    if found.shape != (len(x),):
        raise OrnsteinError(f"the reward gave {tuple(found.shape)} for {len(x)} samples", "Give one number each.")
    return found.double().nan_to_num(nan=-torch.inf)


def settle(state: State, chosen: Tensor, n: int, before: State) -> State:
    """The chosen particle [B] of each sample's n, under the ids and conditions that the samples had `before`."""
    rows = chosen + torch.arange(len(chosen), device=chosen.device) * n
    won = state.take(rows)
    return replace(won, ids=before.ids, cond=before.cond, noise=state.noise.gather(rows))
