"""EVODiff: a second-order multistep of x0, corrected by the next answer with a share that the data choose.

EVODiff: Entropy-aware Variance Optimized Diffusion Inference, Li, Chen, Zeng, 2025, arXiv:2509.26096. With g = a_s - s_s
a_t/s_t, E = (s_s/s_t) x + g x0(x_t), r = h_before/h in log-SNR, D1 the last difference of x0 and D2 the next: the probe
is E + g D1/(2r), where the network is asked next, and then the step is redone as E + (g/2)(eta D1/r + (1 - eta) D2),
eta in [0, 1/2] the one that makes the correction shortest (least conditional variance), per sample and channel. Costs
one network call per step, two remembered x0 and a few inner products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

__all__ = ["EVODiff"]


@dataclass(frozen=True)
class EVODiff:
    """Remembers the last two x0 [B, ...] and their times, one per row; the published form also the probe's term. A change
    of x between two steps is kept: the correction is added to it."""

    eta: float | None = None  # share of the backward difference, 0 to 1; None: chosen by the data
    faithful: bool = False  # True: the coefficients of the released sampler (to 20 steps), which are of order 1

    def __post_init__(self) -> None:
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise OrnsteinError(f"eta={self.eta} of EVODiff", "Take a share in [0, 1], or None.")

    @property
    def order(self) -> int:
        return 1 if self.faithful else 2

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"x0": (), "t": (), "probe": None}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        x0 = (denoise(x, t).x0, *memory["x0"])  # newest first
        times = (t, *memory["t"])
        levels = [process.at(v, x) for v in (s, *times)]
        to, now = levels[:2]
        published = _Published(process) if self.faithful else None
        if len(x0) > 1:  # the step before is done again, now that its end has been seen
            gain, ratio = _gain(now, levels[2]), _ratio(*levels[1:])
            if published is None:
                x = x + self._correction(x0, gain, ratio)
            else:
                x = x + (published.corrected(x0, levels[1:], memory["probe"], gain, ratio) - memory["probe"])
        gain, ratio = _gain(to, now), _ratio(*levels)
        x = to.s / now.s * x + gain * x0[0]
        if published is None:
            return (x + gain / 2 * ratio * (x0[0] - x0[1]) if len(x0) > 1 else x), {
                "x0": x0[:2], "t": times[:2], "probe": None}  # fmt: skip
        probe = gain / 2 * ratio * published.slope(x0, levels) if len(x0) > 1 else torch.zeros_like(x)
        return x + probe, {"x0": x0[:2], "t": times[:2], "probe": probe}

    def _correction(self, x0: tuple, gain: Tensor | float, ratio: Tensor | float) -> Tensor:
        """(g/2) (eta D1/r + (1 - eta) D2) less the probe's (g/2) D1/r, which is (g/2) (1 - eta) (D2 - D1/r), [B, ...].

        x0: at the end of the step, at its start, and before.
        """
        ahead = x0[0] - x0[1]
        if len(x0) == 2:
            return gain / 2 * ahead
        apart = ahead - ratio * (x0[1] - x0[2])
        eta = self.eta
        if eta is None:  # the shortest on the segment between the two differences, but not beyond its middle
            eta = (_dot(ahead, apart) / _dot(apart, apart).clamp_min(1e-30)).clamp(0, 0.5)
        return gain / 2 * (1 - eta * (ratio > 0)) * apart


def _gain(to: Levels, now: Levels) -> Tensor | float:
    """a_s - s_s a_t/s_t = a_s (1 - e^-h): the weight of x0 in a step. A float where the times are scalars."""
    if to.s.ndim == now.s.ndim == 0:
        return float(to.a) - float(to.s) * float(now.a) / float(now.s)
    return to.a - to.s * (now.a / now.s)


def _ratio(to: Levels, now: Levels, before: Levels | None = None, *older: Levels) -> Tensor | float:
    """1/r = h/h_before in log-SNR, 0 where either is infinite or there is no step before."""
    if before is None:
        return 0.0
    if to.t.ndim == now.t.ndim == before.t.ndim == 0:
        h, h_before = float(to.logsnr) - float(now.logsnr), float(now.logsnr) - float(before.logsnr)
        return h / h_before if h < float("inf") and h_before < float("inf") else 0.0
    ratio = (to.logsnr - now.logsnr) / (now.logsnr - before.logsnr)
    return torch.where(torch.isfinite(to.logsnr) & torch.isfinite(ratio), ratio, torch.zeros_like(ratio))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products per sample and channel, [B, C, 1, ...]; per sample where there is no channel, [B, 1]."""
    return (one * other).sum(tuple(range(1 if one.ndim == 2 else 2, one.ndim)), keepdim=True)


def _onto(one: Tensor, other: Tensor) -> Tensor:
    """The coefficient of the projection of one on other, in [-2, 2]."""
    return (_dot(one, other) / _dot(other, other).clamp_min(1e-30)).clamp(-2, 2)


@dataclass(frozen=True)
class _Published:
    """The released coefficients: none tends to that of a consistent method as the steps shrink."""

    process: Process

    def _balance(self, new: Tensor, old: Tensor, levels: list[Levels]) -> Tensor:
        """r_1 or r_2: by what the older x0 is multiplied in a difference."""
        to, now, before = levels[:3]
        span = self.process.t_max + self.process.t_min
        weight = 0.5 * (1 - ((to.t + self.process.t_min) / span) ** 2)
        return (1 - weight) * (to.s * before.s / now.s**2).sqrt() + weight * _onto(new, old)

    def slope(self, x0: tuple, levels: list[Levels]) -> Tensor:
        """r D1/r_i, [B, ...]; r_i = r sigmoid(|r_1|/4), which lies in [r/2, r]."""
        balance = self._balance(x0[0], x0[1], levels)
        return (x0[0] - balance * x0[1]) / torch.sigmoid(0.25 * balance.abs())

    def corrected(self, x0: tuple, levels: list[Levels], probe: Tensor, gain: Tensor, ratio: Tensor) -> Tensor:
        """(g/2) B/zeta; the probe where there are not two steps of finite length."""
        if len(x0) < 3:
            return probe
        one = self._balance(x0[1], x0[2], levels)
        D1, D2 = x0[1] - one * x0[2], x0[0] - self._balance(x0[0], x0[1], levels) * x0[1]
        ratio = torch.as_tensor(ratio, dtype=probe.dtype, device=probe.device)
        usable = ratio > 0
        r = 1 / torch.where(usable, ratio, torch.ones_like(ratio))
        before, after = D1 / r, r * D2
        eta = 0.5 * torch.sigmoid((0.5 * _onto(after + before, after - before)).abs())
        mixed = (1 - eta) * after - eta * before
        left = probe - gain / 2 * mixed / (r * torch.sigmoid(0.25 * one.abs()))
        zeta = torch.sigmoid((_onto(left, D1) / gain).abs() - 0.5)
        return torch.where(usable, gain / 2 * mixed / zeta, probe)
