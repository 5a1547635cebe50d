"""Frechet distance between two sets of features, each taken for a Gaussian.

Martin Heusel, Hubert Ramsauer, Thomas Unterthiner, Bernhard Nessler, Sepp Hochreiter, "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium", 2017, arXiv:1706.08500; the distance itself: D. C. Dowson,
B. V. Landau, "The Frechet distance between multivariate normal distributions", 1982.

    d^2 = |mu_g - mu_r|^2 + tr( S_g + S_r - 2 (S_g^1/2 S_r S_g^1/2)^1/2 )

In float64. The symmetric product has the eigenvalues of S_g S_r and none is complex, so that one symmetric
eigendecomposition for S_g^1/2 and the product's eigenvalues are all that is needed, also for singular covariances.
The estimate is biased upward, the more the fewer samples: the floor (one half of the reference against the other, hence
at half its size) shows how much. The interval is the estimate -+ 1.96 bootstrap deviations: sampling noise at this
sample size, without that bias. Called FID only with the Inception network of 2017, which is not shipped here.
Cost: O(N D^2 + D^3), (rounds + 2) times; D is N + M where that is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, halves, spread

__all__ = ["Frechet", "frechet_distance"]


@dataclass(frozen=True)
class Frechet:
    """Squared Frechet distance between generated and reference samples, images [N, C, H, W] or features [N, D]."""

    extractor: str | Extractor = "random-conv"  # name, an Extractor, or "precomputed:NAME"
    rounds: int = 40  # bootstrap resamples behind the interval; each costs an eigendecomposition
    seed: int = 0  # of the bootstrap and of the floor's split

    def __post_init__(self) -> None:
        if self.rounds < 10:
            raise OrnsteinError(f"frechet has rounds={self.rounds}", "Give at least 10.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure in squared feature units, lower is better; n is the number of generated samples."""
        g, r, name = features_of_both(generated, reference, self.extractor, least=4)
        g, r = compact(g, r)
        value, generator = between(g, r), torch.Generator().manual_seed(self.seed)
        draws = [between(resample(g, generator), resample(r, generator)) for _ in range(self.rounds)]
        low, high = spread(value, draws)
        floor = between(*halves(r, self.seed))
        return Measure(value, max(low, 0.0), high, len(g), "frechet", "", "lower", name, floor)


def frechet_distance(mean_g: Tensor, cov_g: Tensor, mean_r: Tensor, cov_r: Tensor) -> float:
    """d^2 of two Gaussians: means [D], covariances [D, D] (symmetric, positive semi-definite), float64 wanted."""
    values, vectors = torch.linalg.eigh(cov_g)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = root @ cov_r @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    gap = (mean_g - mean_r).square().sum()
    return max((gap + cov_g.trace() + cov_r.trace() - 2 * cross).item(), 0.0)


def between(g: Tensor, r: Tensor) -> float:
    """d^2 of two sets of features [N, D] and [M, D], from their means and unbiased covariances."""
    return frechet_distance(g.mean(0), covariance(g), r.mean(0), covariance(r))


def covariance(x: Tensor) -> Tensor:
    """Unbiased covariance [D, D] of features [N, D]."""
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def compact(g: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets turned into the space that their N + M rows span, where that is smaller than D: nothing is lost."""
    if len(g) + len(r) >= g.shape[1]:
        return g, r
    basis = torch.linalg.qr(torch.cat([g, r]).T).Q
    return g @ basis, r @ basis


def resample(x: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows of x, drawn with replacement."""
    return x[torch.randint(len(x), (len(x),), generator=generator).to(x.device)]
