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

from .layers.measure import Measure, check_pair, paired

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

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure in dB, higher is better; n is the number of pairs. again: the reference run's with other seeds."""
        check_pair(generated, reference)
        each, link, name = self.each, (lambda mean: mean), "psnr"
        if self.pooled:
            each, link, name = mean_squared, self._decibel, "psnr-pooled"
        return paired(each, generated, reference, again, name=name, unit="dB", rounds=self.rounds, seed=self.seed, link=link)

    def each(self, generated: Tensor, reference: Tensor) -> Tensor:
        """PSNR of each pair, [N], in float64."""
        return self._decibel(mean_squared(generated, reference))

    def _decibel(self, error: Tensor) -> Tensor:
        return 10 * torch.log10((self.high - self.low) ** 2 / error)


def mean_squared(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each pair, [N], in float64."""
    return (generated.detach().double() - reference.detach().double()).square().flatten(1).mean(1)
