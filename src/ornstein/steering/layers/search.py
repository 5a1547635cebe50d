"""What searches over starts share: a neighbour of a start, noise put on again, survivors, and the sampler as a function
of its start."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Solver, sample
from ornstein.core.process import Process
from ornstein.core.seam import gather

__all__ = ["endings", "matching", "neighbour", "noised", "survivors"]


def neighbour(x: Tensor, other: Tensor, similarity: float) -> Tensor:
    """Of a start x [B, ...], by an independent start `other`: what has the same law where x has the prior's, and the
    correlation `similarity` with x."""
    return similarity * x + math.sqrt(1 - similarity**2) * other


def noised(process: Process, x: Tensor, t: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    """x [B, ...] of time t, diffused to the later time u: drawn from q(x_u | x_t) by unit noise [B, ...]."""
    low, high = process.at(t, x), process.at(u, x)
    kept = high.a / low.a
    return kept * x + (high.s**2 - kept**2 * low.s**2).clamp_min(0).sqrt() * noise


def survivors(rewards: Tensor, keep: int) -> Tensor:
    """rewards [B, n] -> rows [B * n] of the batch of particles: the best `keep` of each sample, in turns, until n."""
    batch, n = rewards.shape
    best = rewards.topk(min(keep, n), 1).indices
    turns = torch.arange(n, device=best.device) % best.shape[1]
    return (best[:, turns] + torch.arange(batch, device=best.device)[:, None] * n).reshape(-1)


@torch.no_grad()
def endings(denoiser: Denoises, starts: Tensor, solver: Solver, steps: int, cond: Any = None, rule: Any = "uniform",
            seed: int = 0, batch: int = 256) -> Tensor:  # fmt: skip
    """The sampler as a function: starts [M, ...] at the prior's time, each under its row of cond -> samples [M, ...]."""
    out = []
    for rows in torch.arange(len(starts)).split(batch):
        some = gather(cond, rows, len(starts))
        out.append(sample(denoiser, starts[rows], solver, steps, cond=some, rule=rule, seed=seed, ids=rows.tolist()))
    return torch.cat(out)


def matching(cond: Any, known: dict[str, Tensor]) -> Tensor:
    """Of each row of cond the index of the equal row of `known` [P, ...], all names of which count; none known: zeros.
    A row that none equals: OrnsteinError."""
    if not known:
        return torch.zeros((), dtype=torch.long)
    lacking = [name for name in known if not isinstance(cond, dict) or name not in cond]
    if lacking:
        raise OrnsteinError(f"the condition has no {', '.join(lacking)}", "Give the condition that it was fitted for.")
    same: Any = True
    for name, rows in known.items():
        here = cond[name].flatten(1) if cond[name].ndim > 1 else cond[name][:, None]
        there = (rows.flatten(1) if rows.ndim > 1 else rows[:, None]).to(here)
        same = same & torch.isclose(here[:, None].double(), there[None].double(), rtol=1e-4, atol=1e-6).all(2)
    if not bool(same.any(1).all()):
        lost = int((~same.any(1)).nonzero()[0])
        raise OrnsteinError(f"the condition of row {lost} is none of the {len(same[0])} that it was fitted for",
                            "Fit it for this condition too.")  # fmt: skip
    return same.long().argmax(1)
