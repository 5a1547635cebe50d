"""SSIM: structural similarity of paired images, from local means, variances and covariance.

Zhou Wang, Alan C. Bovik, Hamid R. Sheikh, Eero P. Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing, 2004.

    SSIM(x, y) = (2 mu_x mu_y + C1)(2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(sigma_x^2 + sigma_y^2 + C2)),
    C1 = (K1 L)^2, C2 = (K2 L)^2,    moments under a Gaussian window; the mean is taken over windows and channels

Windows lie wholly inside the image. Where the image is smaller than the window, the window shrinks to the largest odd
size that fits and sigma shrinks with it; the Measure's name then carries the size ("ssim-7"), since figures of
different windows do not compare. Cost: ten 1-D convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, check_pair, paired
from .layers.windows import fitting, from_zero, gaussian, similarity

__all__ = ["SSIM"]


@dataclass(frozen=True)
class SSIM:
    """Structural similarity between paired images [N, C, H, W]; 1 for identical images, and never above."""

    window: int = 11  # pixels a side, odd (2004 paper)
    sigma: float = 1.5  # standard deviation of the window in pixels (2004 paper)
    k1: float = 0.01  # steadies flat dark places (2004 paper)
    k2: float = 0.03  # steadies places without contrast (2004 paper)
    span: float = 2.0  # L: brightest minus darkest value; 2 for [-1, 1]
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise OrnsteinError(f"ssim has window={self.window}", "Give an odd number of pixels.")
        if self.sigma <= 0 or self.span <= 0:
            raise OrnsteinError(f"ssim has sigma={self.sigma}, span={self.span}", "Both must be above 0.")

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure without unit, higher is better; n is the number of pairs. again: the reference run's with other seeds."""
        check_pair(generated, reference)
        size = fitting(self.window, *generated.shape[-2:])
        return paired(lambda x, y: self.each(x, y)[0], generated, reference, again,
                      name="ssim" if size == self.window else f"ssim-{size}", rounds=self.rounds, seed=self.seed)  # fmt: skip

    def each(self, generated: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        """SSIM of each pair, [N], in float64, and the window size that was used."""
        size = fitting(self.window, *generated.shape[-2:])
        x, y = from_zero(generated, self.span), from_zero(reference, self.span)
        light, structure = similarity(x, y, gaussian(size, self.sigma * size / self.window), self.k1, self.k2, self.span)
        return (light * structure).flatten(1).mean(1), size
