"""Classifier-free guidance that asks the unconditional branch only now and then, and keeps the difference in between.

The CFG-cache of FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality, Zhengyao Lv, Chenyang Si,
Junhao Song, et al., 2024, arXiv:2410.19355. At every n-th evaluation, and always at high noise, d = eps(x, null) - eps(x, c)
is measured; in between eps(x, null) is taken to be eps(x, c) + w_1 low(d) + w_2 high(d), low and high being the spatial
frequencies within and beyond a fifth of the smaller side, w_1 = 1 + boost before the turn of the run and 1 after, w_2 the
other way about. Costs one network call per evaluation and another one every n-th; one difference per sample is stored,
in the memory of the run. Outside of a run it asks every time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core import seam
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.contrast import branch

__all__ = ["CachedCFG"]


@dataclass(frozen=True, eq=False)
class CachedCFG:
    """uncond + scale (cond - uncond), uncond asked or remembered, each sample by its own time and difference."""

    scale: float = 1.0  # 1 = off, 0 = unconditional
    every: int = 5  # n: evaluations from one asking to the next (the paper's); 1: plain classifier-free guidance
    begin: float = 0.64  # flow time s/(a+s) from which on, downwards, the difference may be kept; 1: from the start
    boost: float = 0.0  # share by which a kept difference's frequencies are raised; x must then be [B, ..., H, W]
    turn: float = 0.5  # flow time above which the low frequencies are raised, and below which the high ones

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.begin <= 1 or not 0 <= self.turn <= 1:
            raise OrnsteinError(f"CachedCFG(every={self.every}, begin={self.begin}, turn={self.turn})",
                                "every is at least 1; begin and turn are flow times from 0 to 1.")  # fmt: skip

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "gap": None}

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        if self.scale == 1:
            return said
        if cond is None:
            raise OrnsteinError("classifier-free guidance has no condition to follow", "Give cond=..., or scale=1.")
        run = seam.current()
        memory = self.start() if run is None or not clock.ids else run.memory(self, clock)
        rows, batch = self._due(said, memory), len(x)
        strong, gap = said.value, memory["gap"]
        other = branch(clock, "null")  # not "uncond": under another guidance the two would share what caches remember
        if rows is None:
            weak = denoiser(x, t, denoiser.unconditional(cond, batch), other).get(said.kind)
            gap, value = weak - strong, weak + self.scale * (strong - weak)
        else:
            value = strong + (1 - self.scale) * (self._raised(gap, said) if self.boost else gap)
        if rows is not None and len(rows):
            few = replace(other, ids=tuple(clock.ids[i] for i in rows.tolist()), t=seam.gather(clock.t, rows, batch))
            null = seam.gather(denoiser.unconditional(cond, batch), rows, batch)
            weak = denoiser(x[rows], seam.gather(t, rows, batch), null, few).get(said.kind)
            fresh = weak - strong[rows]
            gap = gap.index_copy(0, rows, fresh)
            value = value.index_copy(0, rows, strong[rows] + (1 - self.scale) * fresh)
        memory.update(calls=memory["calls"] + 1, gap=gap)
        if run is not None:
            facts = run.record.facts.setdefault("cached", {}).setdefault(clock.branch, {"samples": 0, "samples_kept": 0})
            facts["samples"] += batch
            facts["samples_kept"] += 0 if rows is None else batch - len(rows)
        return said.like(said.kind, value)

    def _due(self, said: Prediction, memory: dict) -> Tensor | None:
        """The rows whose unconditional answer is asked; None: all."""
        gap, high = memory["gap"], said.levels.flow_time >= self.begin
        if gap is None or gap.shape != said.value.shape or memory["calls"] % self.every == 0:
            return None
        rows = high if high.ndim == 0 else high.flatten(1).any(1)
        rows = rows.expand(len(gap)).nonzero()[:, 0].to(gap.device)
        return None if len(rows) == len(gap) else rows

    def _raised(self, gap: Tensor, said: Prediction) -> Tensor:
        if gap.ndim < 4:
            raise OrnsteinError(f"CachedCFG(boost={self.boost}) for x with {gap.ndim} axes has no spatial frequencies",
                                "Leave boost at 0.")  # fmt: skip
        height, width = gap.shape[-2:]
        rows, columns = (torch.fft.fftfreq(n, 1 / n, device=gap.device).square() for n in (height, width))
        inside = rows[:, None] + columns <= (min(height, width) // 5) ** 2
        low = torch.fft.ifft2(torch.fft.fft2(gap.float()) * inside).real.to(gap.dtype)
        early = said.levels.flow_time > self.turn
        return gap + self.boost * torch.where(early.to(gap.device), low, gap - low)
