"""MultiDiffusion: overlapping windows are denoised together, what they say is averaged where they meet.

MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation, Omer Bar-Tal, Lior Yariv, Yaron Lipman, Tali
Dekel, 2023, arXiv:2302.08113 (eq. 5): Psi(J) = sum_i F_i^-1(W_i) / (sum_j F_j^-1(W_j)) * F_i^-1(Phi(F_i(J))), the
least-squares agreement of the windows F_i. Here the predictions are averaged instead of the samples after the step:
the same for a solver that is linear in them, and open to any other. Costs one network row per window and step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import gather

__all__ = ["MultiDiffusion"]


@dataclass(frozen=True)
class MultiDiffusion:
    """Windows over the last len(window) axes. The condition is the same for all windows."""

    window: tuple[int, ...] = (8, 8)  # size of a window: what the model was trained on
    stride: tuple[int, ...] = ()  # step between windows, at most the window; (): half of it
    taper: float = 0.0  # 0: flat weights, as published; 1: falling linearly to nearly 0 at a window's border
    chunk: int = 0  # windows per network call; 0 = all at once

    def __post_init__(self) -> None:
        stride = self.stride or tuple(max(1, w // 2) for w in self.window)
        if len(stride) != len(self.window) or any(not 1 <= s <= w for s, w in zip(stride, self.window)):
            raise OrnsteinError(f"stride {tuple(stride)} leaves gaps between windows of {tuple(self.window)}",
                                "Give one whole number per axis, at least 1 and at most the window.")  # fmt: skip
        if not 0 <= self.taper <= 1:
            raise OrnsteinError(f"taper={self.taper} is not within 0 and 1", "0 is flat.")
        object.__setattr__(self, "stride", tuple(stride))

    def corners(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Where the windows begin; the last one of an axis ends with it. size: the last axes of the sample."""
        if any(n < w for n, w in zip(size, self.window)):
            raise OrnsteinError(f"a sample of {tuple(size)} is smaller than the window {tuple(self.window)}",
                                "Ask for a larger sample, or a smaller window.")  # fmt: skip
        axes = ([*range(0, n - w, s), n - w] for n, w, s in zip(size, self.window, self.stride))
        return list(itertools.product(*axes))

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ..., *size]; t: [] or [B]; cond: dict of tensors [B, ...]."""
        corners = self.corners(x.shape[x.ndim - len(self.window) :])
        if len(corners) == 1:
            return denoiser(x, t, cond, clock)
        if torch.as_tensor(t).ndim > 1:
            raise OrnsteinError("times that differ within a sample cannot be cut into windows", "Give one per sample.")
        weight = self._weight(x)
        total, norm, kind = torch.zeros_like(x), torch.zeros_like(x[:1]), ""
        size = self.chunk or len(corners)
        for first in range(0, len(corners), size):
            some = corners[first : first + size]
            said = self._ask(denoiser, x, t, cond, clock, some, first)
            kind = kind or said.kind
            for corner, value in zip(some, said.get(kind).unflatten(0, (len(some), len(x)))):
                place = self._place(corner)
                total[place] += weight * value
                norm[place] += weight
        return Prediction(x, denoiser.process.at(t, x), kind, total / norm)

    def _ask(
        self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock, corners: list, first: int
    ) -> Prediction:
        """Those windows as one batch, window by window."""
        batch = len(x)
        rows = torch.arange(batch, device=x.device).repeat(len(corners))
        ids = tuple((i, "window", first + k) for k in range(len(corners)) for i in clock.ids)
        here = replace(clock, ids=ids, t=gather(clock.t, rows, batch))
        cut = torch.cat([x[self._place(c)] for c in corners])
        return denoiser(cut, gather(t, rows, batch), gather(cond, rows, batch), here)

    def _place(self, corner: tuple[int, ...]) -> tuple:
        return (..., *(slice(c, c + w) for c, w in zip(corner, self.window)))

    def _weight(self, x: Tensor) -> Tensor:
        """[*window], positive."""
        weight = torch.ones(self.window, dtype=x.dtype, device=x.device)
        for axis, n in enumerate(self.window):
            place = (torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n
            tent = 1 - (2 * place - 1).abs()
            weight = weight * ((1 - self.taper) + self.taper * tent).reshape(
                [-1 if k == axis else 1 for k in range(len(self.window))]
            )
        return weight
