"""Linear operators as objects: A (`forward`), A^T (`adjoint`) and the Moore-Penrose A^+ (`pinv`), on [B, C, H, W] or
as said.

A A^+ A = A, A^+ A A^+ = A^+, both products symmetric, <A x, y> = <x, A^T y>. All are cheap and store no matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["AveragePool", "Grey", "Mask", "Operator"]


class Operator(Protocol):
    """y = A x."""

    def forward(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...

    def pinv(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Inpainting on any [B, ...]: what is not kept is measured as 0. A = A^T = A^+, a projection."""

    keep: Tensor  # bool, broadcasts over a sample

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.keep.to(x.device), x, torch.zeros((), dtype=x.dtype, device=x.device))

    adjoint = pinv = forward


@dataclass(frozen=True)
class AveragePool:
    """Super-resolution: means of factor x factor squares of [B, C, H, W]. A A^T = 1/factor^2, so A^+ = factor^2 A^T
    repeats."""

    factor: int = 2

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise OrnsteinError(f"a sample of {tuple(x.shape[-2:])} does not divide into squares of {self.factor}",
                                "Give a factor of its height and width.")  # fmt: skip
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


@dataclass(frozen=True)
class Grey:
    """Colourisation: a weighted sum over the channels of [B, C, H, W] -> [B, 1, H, W]. A^+ = w / |w|^2."""

    weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)  # one per channel

    def _w(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.weights):
            raise OrnsteinError(
                f"{x.shape[1]} channels for {len(self.weights)} weights", "Give one weight per channel."
            )
        return (self._w(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._w(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        w = self._w(y)
        return w / (w * w).sum() * y
