"""The exact denoiser of a finite data set: what a network of boundless capacity would learn from it.

E[x0 | x] = sum_i softmax_i(-|x - a d_i|^2 / (2 s^2)) d_i over the data d_i (Karras et al., 2022, arXiv:2206.00364,
appendix B.3). With a bandwidth h it is the denoiser of the kernel density: variance a^2 h^2 + s^2. Costs N x D per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process

__all__ = ["ClosedForm"]


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A denoiser like any other. x: [B, ...] of the data's shape; t: [], [B] or leading axes. Reckons in float64.

    cond: None, or {"label": int [B]}: only the data of that label; `null` stands for all of it.
    """

    data: Tensor  # [N, ...]
    process: Process
    labels: Tensor | None = None  # int [N]
    bandwidth: float = 0.0  # standard deviation of the kernel on each datum, in units of the data
    chunk: int = 64  # rows at a time: chunk x N numbers of memory

    def __post_init__(self) -> None:
        if len(self.data) == 0:
            raise OrnsteinError("the data set is empty", "Give at least one datum.")
        if self.labels is not None and len(self.labels) != len(self.data):
            raise OrnsteinError(f"{len(self.labels)} labels for {len(self.data)} data", "Give one per datum.")

    @property
    def null(self) -> int:
        """The label that stands for all data: one more than the largest."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def unconditional(self, cond: Any, batch: int) -> dict[str, Tensor]:
        return {"label": torch.full((batch,), self.null)}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None) -> Prediction:
        if x.shape[1:] != self.data.shape[1:]:
            shapes = f"{tuple(x.shape[1:])} for data of shape {tuple(self.data.shape[1:])}"
            raise OrnsteinError(f"a sample of shape {shapes}", "Give samples shaped as the data.")
        L = self.process.at(t, x)
        a, s = (v.expand_as(x).flatten(1) for v in (L.a, L.s))
        label = torch.full((len(x),), self.null) if cond is None else cond["label"]
        parts = zip(*(v.split(self.chunk) for v in (x.flatten(1), a, s, label.to(x.device))))
        rows = [self._mean(*part) for part in parts]
        return Prediction(x, L, "x0", torch.cat(rows).reshape(x.shape).to(x.dtype))

    def _mean(self, x: Tensor, a: Tensor, s: Tensor, label: Tensor) -> Tensor:
        """The posterior mean of some rows, float64 [b, D]."""
        data = self.data.to(x.device).flatten(1).double()
        x, a = x.double(), a.double()
        total = a**2 * self.bandwidth**2 + s.double().clamp_min(1e-6) ** 2
        logits = (a * x / total) @ data.T - 0.5 * (a**2 / total) @ (data**2).T
        if bool((label != self.null).any()):
            own = torch.full((len(data),), -1) if self.labels is None else self.labels
            allowed = (label[:, None] == own.to(x.device)) | (label[:, None] == self.null)
            if not bool(allowed.any(1).all()):
                raise OrnsteinError("a label has no data", f"{self.null} stands for no label.")
            logits = logits.masked_fill(~allowed, -torch.inf)
        mean = logits.softmax(1) @ data
        return mean + a * self.bandwidth**2 / total * (x - a * mean)
