"""Structural similarity under a sliding Gaussian window: the luminance and the contrast-structure term, place by place.

Zhou Wang, Alan C. Bovik, Hamid R. Sheikh, Eero P. Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing, 2004. Windows lie wholly inside the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blur", "fitting", "from_zero", "gaussian", "similarity"]


def fitting(window: int, height: int, width: int) -> int:
    """The largest odd size up to `window` that fits into an image."""
    return min(window, *(s - 1 + s % 2 for s in (height, width)))


def from_zero(images: Tensor, span: float) -> Tensor:
    """Images about 0 in float64, lifted to values from 0 as pixels have: the luminance term wants them so."""
    return images.detach().double() + span / 2


def similarity(x: Tensor, y: Tensor, kernel: Tensor, k1: float, k2: float, span: float) -> tuple[Tensor, Tensor]:
    """x, y [N, C, H, W] from 0 to span -> luminance and contrast-structure terms, each [N, C, h, w]. Their product: SSIM."""
    mx, my, xx, yy, xy = blur(torch.stack([x, y, x * x, y * y, x * y]), kernel.to(x))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = (k1 * span) ** 2, (k2 * span) ** 2
    return (2 * mx * my + c1) / (mx * mx + my * my + c1), (2 * cov + c2) / (vx + vy + c2)


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
