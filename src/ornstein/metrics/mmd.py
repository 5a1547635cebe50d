"""MMD: the squared maximum mean discrepancy of two sets of features under a Gaussian kernel, without bias.

Sadeep Jayasumana, Srikumar Ramalingam, Andreas Veit, Daniel Glasner, Ayan Chakrabarti, Sanjiv Kumar, "Rethinking FID:
towards a better evaluation metric for image generation", 2023, arXiv:2401.09603 (CMMD, with CLIP's features).

    MMD^2 = mean_{i != j} k(g_i, g_j) + mean_{i != j} k(r_i, r_j) - 2 mean_{i, j} k(g_i, r_j),    reported: 1000 MMD^2
    k(x, y) = exp(-|x - y|^2 / (2 h^2)),    h = 10

on features scaled to length 1. No law is assumed, as the Frechet distance does; the mean of the estimate is 0 where both
sets have one law. At h = 10 unit vectors lie so close that the kernel is linear to a percent: the figure is then ten times
the squared distance of the two mean features, and sees nothing but means. A smaller h, or normalise=False with h about the
distance of neighbours, sees more. `of_mixtures` is the exact value for Gaussian mixtures. Cost: O(N * block * D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.features import Extractor, features_of_both
from .layers.kernel import blocks
from .layers.measure import Measure, halves, spread

__all__ = ["MMD", "of_mixtures"]

Mixed = tuple[Tensor, Tensor, Tensor]  # weights [K], means [K, D], standard deviations [K, D]


@dataclass(frozen=True)
class MMD:
    """Unbiased squared MMD, times `scale`, between generated and reference samples: images [N, C, H, W] or features [N, D]."""

    extractor: str | Extractor = "random-conv"  # name, an Extractor, or "precomputed:NAME"; the publication: CLIP
    bandwidth: float = 10.0  # h, in units of the features (publication: 10)
    normalise: bool = True  # features to length 1 first (publication)
    scale: float = 1000.0  # of the figure (publication: 1000)
    block: int = 1000  # largest number of samples of a side in one kernel matrix
    rounds: int = 200  # bootstrap resamples behind the interval
    seed: int = 0  # of the blocks, the bootstrap and the floor's split

    def __post_init__(self) -> None:
        if not (self.bandwidth > 0 and self.scale > 0 and self.block >= 2 and self.rounds >= 10):
            raise OrnsteinError(f"mmd has bandwidth={self.bandwidth}, scale={self.scale}, block={self.block}, "
                                f"rounds={self.rounds}", "Give the first two above 0, block >= 2, rounds >= 10.")  # fmt: skip

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure, lower is better, may be below 0; n: generated samples. Its name carries what the figure depends on."""
        g, r, extractor = features_of_both(generated, reference, self.extractor, least=4)
        if self.normalise:
            g, r = (v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-12) for v in (g, r))
        draws = self.scale * blocks(g, r, self.kernel, self.block, self.rounds, self.seed)
        low, high = spread(draws[0].item(), draws[1:].tolist())
        floor = self.scale * blocks(*halves(r, self.seed), self.kernel, self.block, 0, self.seed)[0].item()
        name = f"mmd h={self.bandwidth:g}" + ("" if self.normalise else ", lengths kept")
        unit = "" if self.scale == 1 else f"1/{self.scale:g}"
        return Measure(draws[0].item(), low, high, len(g), name, unit, "lower", extractor, floor)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """exp(-|a - b|^2 / (2 h^2)) of features [N, D], [M, D]: [N, M]."""
        squares = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
        return torch.exp(-squares.clamp_min(0) / (2 * self.bandwidth**2))


def of_mixtures(one: Mixed, other: Mixed, bandwidth: float) -> float:
    """The exact squared MMD (scale 1, lengths kept) of two mixtures of Gaussians with diagonal covariances.

    E k(x, y) = prod_d h / sqrt(h^2 + u_d + v_d) exp(-(m_d - n_d)^2 / (2 (h^2 + u_d + v_d))), u and v the variances.
    """
    def mean_kernel(p: Mixed, q: Mixed) -> Tensor:
        (w, m, u), (v, n, t) = ([part.double() for part in mixture] for mixture in (p, q))
        wide = bandwidth**2 + u[:, None] ** 2 + t[None] ** 2
        log = (bandwidth**2 / wide).log() / 2 - (m[:, None] - n[None]) ** 2 / (2 * wide)
        return (w / w.sum()) @ log.sum(2).exp() @ (v / v.sum())

    return (mean_kernel(one, one) + mean_kernel(other, other) - 2 * mean_kernel(one, other)).item()
