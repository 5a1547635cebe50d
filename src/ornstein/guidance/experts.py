"""Expert guidance: a guide made for clean data becomes several for noisy ones, each for its range of the noise.

Towards Practical Plug-and-Play Diffusion Models, Hyojun Go, Yunsung Lee, Jin-Young Kim, Seunghyun Lee, Myeongho Jeong, Hyun
Seung Lee, Seungtaek Choi, 2022, arXiv:2212.05973 (PPAP). The range of times is cut into N; expert n is the guide with low-rank
changes of its weights, and learns from samples x0 that the diffusion model generates, without labels,

    min KL( softmax(f(x0) / 0.25) || softmax(f_n(x_t)) ),   t in range n;    then   score' = score + w grad log p_n(y | x_t).

Costs the guide, forward and backward, per step; in memory N sets of low-rank changes and copies of the guide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process

from .layers.contrast import ALWAYS
from .layers.gradient import check, guided, labelled, needs, places
from .layers.noisy import adapted, fit, noised, scaled

__all__ = ["Experts", "transfer"]


@dataclass(frozen=True, eq=False)
class Experts:
    """The gradient with respect to x_t of the expert in whose range of flow times the sample stands; ranges are (low, high]."""

    experts: Sequence[Callable] = ()  # from the data to the noise: (x_t at the size of the data) -> output [B, ...]
    strength: float = 0.0  # w; 0 = off. The publication's 7.5
    target: Callable[[Tensor, Any], Tensor] | None = None  # (output, cond) -> log-density [B]; None: log p of cond['label']
    std: float = 0.5  # standard deviation of the data: experts see x_t std / sqrt(a^2 std^2 + s^2)
    unit: bool = False  # gradients of unit length
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s), (low, high]: 0 data, 1 noise

    def __post_init__(self) -> None:
        check(self.strength, "noisy", self.std, self.interval)
        if self.strength != 0:
            needs(self.experts or None, "expert guidance", "experts=, such as transfer(classifier, process, samples) makes")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict with the label int [B], or what target reads."""
        return guided(denoiser, x, t, cond, clock, self.log_density, self.strength, "noisy", self.std, self.interval,
                      self.unit)  # fmt: skip

    def log_density(self, x: Tensor, levels: Levels, cond: Any) -> Tensor:
        """What the experts in charge say of x_t, [B]."""
        seen, count = scaled(x, levels, self.std), len(self.experts)
        if levels.flow_time.ndim == 0:
            k = max(math.ceil(float(levels.flow_time) * count), 1) - 1
            return self._judged(self.experts[k](seen), cond, slice(None))
        chosen, total = (places(levels, x) * count).ceil().long().sub(1).clamp(0, count - 1), x.new_zeros(len(x))
        for k in chosen.unique().tolist():
            rows = (chosen == k).nonzero()[:, 0]
            total = total.index_add(0, rows, self._judged(self.experts[k](seen[rows]), cond, rows))
        return total

    def _judged(self, output: Tensor, cond: Any, rows: Any) -> Tensor:
        if self.target is not None:
            part = {k: v[rows] if isinstance(v, Tensor) else v for k, v in cond.items()} if isinstance(cond, dict) else cond
            return self.target(output, part)
        if not isinstance(cond, dict) or "label" not in cond:
            raise OrnsteinError("expert guidance finds no condition 'label'", "Give it to the run, int [B], or target=.")
        return labelled(output.log_softmax(1), cond["label"][rows])


def transfer(guide: nn.Module, process: Process, samples: Tensor, count: int = 5, rank: int = 4, steps: int = 200,
             batch: int = 64, temperature: float = 0.25, rate: float = 2e-3, std: float = 0.5,
             seed: int = 0) -> tuple[nn.Module, ...]:  # fmt: skip
    """`count` experts from a classifier of clean data and generated samples [N, ...]; no labels, some seconds for small ones.

    rank 0: every weight learns, which is fine-tuning in full. count 1: one network for all noise.
    """
    if count < 1 or steps < 1 or len(samples) < 1:
        raise OrnsteinError(f"transfer(count={count}, steps={steps}) from {len(samples)} samples", "Give at least one of each.")
    with torch.no_grad():
        said = torch.cat([guide(part) for part in samples.split(256)]).div(temperature).softmax(1)
    experts = []
    for k in range(count):
        source = torch.Generator().manual_seed(seed * 1000 + k)
        child = adapted(guide, rank, seed * 1000 + k) if rank else copy.deepcopy(guide).requires_grad_(True)

        def loss(k: int = k, child: nn.Module = child, source: torch.Generator = source) -> Tensor:
            rows = torch.randint(len(samples), (batch,), generator=source)
            x, levels, _ = noised(process, samples[rows], k / count, (k + 1) / count, source)
            return F.kl_div(child(scaled(x, levels, std)).log_softmax(1), said[rows], reduction="batchmean")

        fit(child.train().parameters(), loss, steps, rate)
        experts.append(child.eval().requires_grad_(False))
    return tuple(experts)
