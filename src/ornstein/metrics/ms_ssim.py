"""MS-SSIM: structural similarity of paired images over several scales, contrast and structure at each, luminance at the last.

Zhou Wang, Eero P. Simoncelli, Alan C. Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar
Conference on Signals, Systems and Computers, 2003, eq. 7. With x_j the image halved j - 1 times (mean of 2x2 pixels):

    MS-SSIM(x, y) = l_M(x_M, y_M)^w_M prod_j cs_j(x_j, y_j)^w_j,    w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333

where l and cs are SSIM's luminance and contrast-structure terms, averaged over windows and channels of a scale; a negative
mean of cs counts as 0. Five scales of the window of 11 want 176 pixels: smaller images get the first scales that fit, with
weights that sum to 1, and the Measure is named after scales and window ("ms-ssim-2x11"), since such figures do not compare.
Cost: 4/3 of SSIM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, check_pair, paired
from .layers.windows import fitting, from_zero, gaussian, similarity

__all__ = ["MSSSIM"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse (2003 paper)


@dataclass(frozen=True)
class MSSSIM:
    """Multi-scale structural similarity between paired images [N, C, H, W], 0 to 1; 1 for identical images."""

    scales: int = 5  # at most, each half the size of the one before
    window: int = 11  # pixels a side at every scale, odd; a smaller one leaves room for more scales
    sigma: float = 1.5  # of the window of 11; another window's is in proportion
    k1: float = 0.01  # steadies flat dark places
    k2: float = 0.03  # steadies places without contrast
    span: float = 2.0  # brightest minus darkest value; 2 for [-1, 1]
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= len(WEIGHTS):
            raise OrnsteinError(f"ms_ssim has scales={self.scales}", f"Give 1 to {len(WEIGHTS)}.")
        if self.window < 1 or self.window % 2 == 0:
            raise OrnsteinError(f"ms_ssim has window={self.window}", "Give an odd number of pixels.")
        if self.sigma <= 0 or self.span <= 0:
            raise OrnsteinError(f"ms_ssim has sigma={self.sigma}, span={self.span}", "Both must be above 0.")

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure without unit, higher is better; n is the number of pairs. again: the reference run's with other seeds."""
        check_pair(generated, reference)
        size, scales = self.fit(*generated.shape[-2:])
        name = "ms-ssim" if (size, scales) == (11, 5) else f"ms-ssim-{scales}x{size}"
        return paired(self.each, generated, reference, again, name=name, rounds=self.rounds, seed=self.seed)

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """(window, number of scales) for an image: the window must lie inside the coarsest scale."""
        size, scales = fitting(self.window, height, width), 1
        while scales < self.scales and min(height, width) // 2**scales >= size:
            scales += 1
        return size, scales

    def each(self, generated: Tensor, reference: Tensor) -> Tensor:
        """MS-SSIM of each pair, [N], in float64."""
        size, scales = self.fit(*generated.shape[-2:])
        kernel, total = gaussian(size, self.sigma * size / 11), sum(WEIGHTS[:scales])
        x, y = from_zero(generated, self.span), from_zero(reference, self.span)
        answer = torch.ones(len(x), dtype=torch.float64, device=x.device)
        for j, weight in enumerate(WEIGHTS[:scales]):
            light, structure = similarity(x, y, kernel, self.k1, self.k2, self.span)
            last = j == scales - 1
            term = (light * structure if last else structure).flatten(1).mean(1)
            answer = answer * term.clamp_min(0) ** (weight / total)
            if not last:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return answer
