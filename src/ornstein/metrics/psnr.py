"""PSNR: peak signal-to-noise ratio between paired images, in dB.

A signal-processing standard without a first paper; on what it can and cannot say: Zhou Wang, Alan C. Bovik,
"Mean squared error: love it or leave it?", IEEE Signal Processing Magazine, 2009.

    PSNR(x, y) = 10 log10( (high - low)^2 / MSE(x, y) ),    reported: the mean over pairs of each pair's PSNR

Identical pairs have PSNR infinity, and one of them makes the mean infinite. `pooled=True` takes the mean of the MSE
first, which stays finite unless every pair is identical and weighs bad pairs more. Cost: one pass over the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, bootstrap, check_pair

__all__ = ["PSNR"]


@dataclass(frozen=True)
class PSNR:
    """Peak signal-to-noise ratio in dB between paired images [N, C, H, W] in [low, high]."""

    low: float = -1.0  # darkest value
    high: float = 1.0  # brightest value
    pooled: bool = False  # PSNR of the mean error instead of the mean PSNR
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise OrnsteinError(f"psnr has low={self.low}, high={self.high}", "Give low < high.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure in dB, higher is better; n is the number of pairs."""
        check_pair(generated, reference)
        error = mean_squared(generated, reference)
        if self.pooled:
            value, (least, most) = error.mean(), bootstrap(error, self.rounds, self.seed)
            low, high = self._decibel(torch.tensor(most)), self._decibel(torch.tensor(least))
            value = self._decibel(value)
        else:
            each = self._decibel(error)
            value, (low, high) = each.mean(), bootstrap(each, self.rounds, self.seed)
        name = "psnr-pooled" if self.pooled else "psnr"
        return Measure(float(value), float(low), float(high), len(error), name, "dB")

    def _decibel(self, error: Tensor) -> Tensor:
        return 10 * torch.log10((self.high - self.low) ** 2 / error)


def mean_squared(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each pair, [N], in float64."""
    return (generated.detach().double() - reference.detach().double()).square().flatten(1).mean(1)
