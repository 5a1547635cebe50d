"""Pixel: no codec at all, the sample is the picture in [-1, 1]. The exemplar of the room's protocol."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Pixel"]


@dataclass(frozen=True)
class Pixel:
    """The identity."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)
