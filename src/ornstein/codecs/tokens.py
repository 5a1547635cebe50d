"""Tokens: pixels as whole numbers, the nearest of a few evenly spaced grey levels, for processes of tokens.

token = round((x + 1) / 2 * (levels - 1)), x = 2 token / (levels - 1) - 1: a uniform scalar quantiser (Gray, Neuhoff, 1998,
"Quantization", IEEE Transactions on Information Theory 44(6), section II). Costs nothing; it has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["Tokens"]


@dataclass(frozen=True)
class Tokens:
    """Pixels in [-1, 1] <-> int64 in 0..levels-1, of the same shape."""

    levels: int = 256

    n_dim: ClassVar[int] = 2
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise OrnsteinError(f"{self.levels} levels cannot tell dark from bright", "Give 2 or more.")

    @property
    def error(self) -> float:
        """Root mean square error for pixels spread evenly: half a step over the root of 3."""
        return 1 / (self.levels - 1) / 3**0.5

    def encode(self, x: Tensor) -> Tensor:
        """Beyond [-1, 1] it is the first or last level."""
        return ((x.clamp(-1, 1) + 1) / 2 * (self.levels - 1)).round().long()

    def decode(self, z: Tensor) -> Tensor:
        """float32 in [-1, 1]. A token that is none, such as a mask left over: OrnsteinError."""
        if z.is_floating_point() or (z.numel() and not 0 <= int(z.min()) <= int(z.max()) < self.levels):
            raise OrnsteinError(f"these tokens are not all in 0..{self.levels - 1}", "Sample to t = 0, where no mask is left.")
        return z.float() * (2 / (self.levels - 1)) - 1

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) or (B, C, H, W)."""
        return tuple(shape)
