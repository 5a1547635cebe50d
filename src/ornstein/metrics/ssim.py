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

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, bootstrap, check_pair

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

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure without unit, higher is better; n is the number of pairs."""
        check_pair(generated, reference)
        each, size = self.each(generated, reference)
        low, high = bootstrap(each, self.rounds, self.seed)
        name = "ssim" if size == self.window else f"ssim-{size}"
        return Measure(each.mean().item(), low, high, len(each), name)

    def each(self, generated: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        """SSIM of each pair, [N], in float64, and the window size that was used."""
        x = generated.detach().double() + self.span / 2  # the luminance term wants values from 0, as pixels have
        y = reference.detach().double() + self.span / 2
        size = min(self.window, *(s - 1 + s % 2 for s in x.shape[-2:]))
        kernel = gaussian(size, self.sigma * size / self.window).to(x)
        mx, my, xx, yy, xy = blur(torch.stack([x, y, x * x, y * y, x * y]), kernel)
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        c1, c2 = (self.k1 * self.span) ** 2, (self.k2 * self.span) ** 2
        ratio = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
        return ratio.flatten(1).mean(1), size


def gaussian(size: int, sigma: float) -> Tensor:
    """Gaussian taps [size] that sum to 1, float64."""
    steps = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-(steps**2) / (2 * sigma**2))
    return taps / taps.sum()


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter over the last two axes of x [..., H, W], windows inside the image only."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.view(*x.shape[:-2], *flat.shape[-2:])
