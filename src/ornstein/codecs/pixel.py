"""Pixel: no codec at all, the sample is the picture. Statistics and a folding of blocks into channels are options.

z = (fold(x) - mean) / std, a bijection. fold: blocks of factor x factor pixels become channels (the sub-pixel shuffle
of Shi et al., 2016, arXiv:1609.05158, the other way round). Costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["Pixel"]


@dataclass(frozen=True)
class Pixel:
    """The identity as it stands, bit for bit."""

    mean: float = 0.0  # of the pixels; 0: leave them where they are
    std: float = 1.0  # of the pixels
    factor: int = 1  # side of the blocks that are folded into channels; 1: none

    n_dim: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.std <= 0 or self.factor < 1:
            raise OrnsteinError(f"pixel with std={self.std}, factor={self.factor}", "Give std > 0, factor >= 1.")

    @property
    def error(self) -> float:
        """Rounding of float32 for pixels in [-1, 1]; 0 for the identity."""
        return 0.0 if (self.mean, self.std) == (0, 1) else 2.0**-23 * (2 + 2 * abs(self.mean))

    def encode(self, x: Tensor) -> Tensor:
        self.latent_shape(tuple(x.shape))
        z = F.pixel_unshuffle(x, self.factor) if self.factor > 1 else x
        return z if (self.mean, self.std) == (0, 1) else (z - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        x = z if (self.mean, self.std) == (0, 1) else z * self.std + self.mean
        if self.factor == 1:
            return x
        if z.shape[-3] % self.factor**2:
            raise OrnsteinError(f"pixel cannot decode {tuple(z.shape)}", f"It needs {self.factor**2} k channels.")
        return F.pixel_shuffle(x, self.factor)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) or (B, C, H, W). Sides that are no multiple of the factor: OrnsteinError."""
        *above, c, h, w = shape
        if h % self.factor or w % self.factor:
            raise OrnsteinError(f"pixel cannot take a picture of {h} x {w}", f"Give multiples of {self.factor}.")
        return (*above, c * self.factor**2, h // self.factor, w // self.factor)
