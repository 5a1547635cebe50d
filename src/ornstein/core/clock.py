"""Where the loop is, and where its noise comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .errors import OrnsteinError

__all__ = ["Clock", "NoiseSource", "pick_token"]


@dataclass(frozen=True)
class Clock:
    """The place of one network call: data that travels with it, not the name of a context.

    step: index of the solver's step; evaluation: calls already made within it; steps: how many there will be;
    t: the time asked for ([] or [B]); branch: 'cond', 'uncond', ...; ids: one per row of the batch; share: of the batch's
    rows that this call is about, where a plugin computes only some; times: the grid [steps + 1] of the run, where there is one.
    """

    step: int = 0
    evaluation: int = 0
    steps: int = 1
    t: Tensor | float = 0.0
    branch: str = "cond"
    ids: tuple = ()
    share: float = 1.0
    times: Tensor | None = None

    def at(self, branch: str) -> Clock:
        """The same moment on another branch of guidance."""
        return replace(self, branch=branch)


_MASK = 0x7FFFFFFFFFFFFFFF


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on int64 with wrap-around."""
    z = (z ^ ((z >> 30) & (_MASK >> 29))) * -4658895280553007687
    z = (z ^ ((z >> 27) & (_MASK >> 26))) * -7723592293110705685
    return z ^ ((z >> 31) & (_MASK >> 30))


@dataclass(frozen=True)
class NoiseSource:
    """Gaussian noise keyed by (seed, sample id, draw): the same sample in any batch, in any order, on any device.

    keys: int64 [B], one stream per row. A counter-based generator, so nothing is stored and nothing is consumed.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int | Sequence[int], ids: Sequence[int]) -> NoiseSource:
        """One stream per sample id. seed: one for all, or one per sample."""
        seeds = [seed] * len(ids) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(ids):
            raise OrnsteinError(f"{len(seeds)} seeds for {len(ids)} samples", "Give one seed, or one per sample.")
        wrap = [((s * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF) - 2**63 for s in seeds]
        return cls(_mix(_mix(torch.tensor(wrap)) + torch.tensor([int(i) for i in ids], dtype=torch.int64)))

    def draw(self, key: int, like: Tensor) -> Tensor:
        """Unit normal noise of the shape, type and device of `like` [B, ...] for draw number `key` (-1: the start)."""
        count = math.prod(like.shape[1:])
        half = (count + 1) // 2
        u = self._uniform(key, 2 * half, like.device)
        radius, angle = u[:, :half].log().mul_(-2).sqrt_(), u[:, half:].mul(2 * math.pi)  # Box and Muller
        normal = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]
        return normal.reshape(like.shape).to(like.dtype)

    def uniform(self, key: int, shape: Sequence[int], device: Any = "cpu") -> Tensor:
        """Numbers in (0, 1), float64 [B, *shape], for draw number `key`; do not use a number for both kinds of draw."""
        return self._uniform(key, math.prod(shape), device).reshape(len(self.keys), *shape)

    def _uniform(self, key: int, count: int, device: Any) -> Tensor:
        stream = _mix(self.keys.to(device) + (key + 2) * 0x51633E2D)[:, None]
        counter = torch.arange(count, device=device) * -7046029254386353131 + 1442695040888963407
        bits = _mix(stream + counter)
        return ((bits >> 11) & (2**53 - 1)).to(torch.float64).add_(0.5).mul_(2.0**-53)

    def gather(self, index: Tensor) -> NoiseSource:
        """The streams of the chosen rows, in order: for sub-batches. Two picks of one row share a stream."""
        return NoiseSource(self.keys[index.to(self.keys.device)])

    def anew(self) -> NoiseSource:
        """The same rows with fresh streams: for a second try."""
        return NoiseSource(_mix(self.keys + 0x2545F4914F6CDD1D))

    def fork(self, index: Tensor, generation: int) -> NoiseSource:
        """The chosen rows with fresh streams: for particles, whose copies must part ways. A stream depends on its own row,
        the generation and which copy of the row it is, not on its neighbours."""
        index = index.to(self.keys.device)
        order = index.argsort(stable=True)
        ranked, copy = index[order], torch.empty_like(index)
        copy[order] = torch.arange(len(index), device=index.device) - torch.searchsorted(ranked, ranked)
        return NoiseSource(_mix(self.keys[index] + copy * 7919 + (generation + 1) * 104729))


def pick_token(chances: Tensor, u: Tensor) -> Tensor:
    """The token [...] at which the sum of `chances` [..., K] passes the share u [...] of it, u in (0, 1)."""
    total = chances.cumsum(-1)
    return (total <= u[..., None] * total[..., -1:]).sum(-1).clamp_max(chances.shape[-1] - 1)
