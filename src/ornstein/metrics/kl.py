"""Kullback-Leibler divergence of samples from a reference: by neighbours, or with exact densities where they are known.

Qing Wang, Sanjeev R. Kulkarni, Sergio Verdu, "Divergence estimation for multidimensional densities via k-nearest-neighbor
distances", IEEE Transactions on Information Theory, 2009, eq. 5. With rho_k the distance to the k-th nearest other
generated sample and nu_k that to the k-th nearest reference sample, in D dimensions:

    KL(g | r) = (D / N) sum_i log( nu_k(g_i) / rho_k(g_i) ) + log( M / (N - 1) )            in nats
    KL(p | q) = (1 / N) sum_i log p(x_i) - log q(x_i),  x_i from p                          `exact`

It rises without bound where samples lie where the reference has none, and is blind to what they miss: swap the two for
that. The estimate is biased in many dimensions, to either side: read the floor, and compare equal counts only. Copies
of a sample have no density, and raise. Interval: subsamples drawn without replacement (a bootstrap's copies would be
neighbours at distance 0), scaled to all. Cost: O(N (N + M) D) distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, bootstrap, halves, spread

__all__ = ["KL", "exact", "nearest"]


@dataclass(frozen=True)
class KL:
    """KL divergence in nats of generated from reference samples, images [N, C, H, W] or features [N, D]."""

    extractor: str | Extractor = "pixels"  # name, an Extractor, or "precomputed:NAME"; low dimensions fit
    k: int = 4  # neighbour whose distance stands for the density: fewer have less bias and more noise
    rounds: int = 40  # half-samples behind the interval
    seed: int = 0  # of the half-samples and the floor's split

    def __post_init__(self) -> None:
        if self.k < 1 or self.rounds < 10:
            raise OrnsteinError(f"kl has k={self.k}, rounds={self.rounds}", "Give k >= 1, rounds >= 10.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure in nats, lower is better, may be below 0; n is the number of generated samples."""
        g, r, extractor = features_of_both(generated, reference, self.extractor, least=2 * self.k + 2)
        value, generator = nearest(g, r, self.k), torch.Generator().manual_seed(self.seed)
        draws = torch.tensor([nearest(half(g, generator), half(r, generator), self.k) for _ in range(self.rounds)])
        low, high = spread(value, draws.tolist())  # deviation of halves drawn from a whole: that of the whole itself
        return Measure(value, low, high, len(g), f"kl@{self.k}", "nats", "lower", extractor,
                       nearest(*halves(r, self.seed), self.k))  # fmt: skip


def half(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the rows of x, without replacement."""
    return x[torch.randperm(len(x), generator=generator)[: len(x) // 2].to(x.device)]


def nearest(g: Tensor, r: Tensor, k: int) -> float:
    """The estimate of KL(g | r) from features [N, D] and [M, D], in nats."""
    own, other = ([torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(at, dim=1).values
                   for rows in g.split(512)] for x, at in ((g, k + 1), (r, k)))  # fmt: skip
    rho, nu = torch.cat(own), torch.cat(other)
    if bool((rho == 0).any()) or bool((nu == 0).any()):
        raise OrnsteinError(f"{int(((rho == 0) | (nu == 0)).sum())} samples have copies, and copies no density",
                            "Drop repeated samples, and samples that are in the reference too.")  # fmt: skip
    return (g.shape[1] * (nu / rho).log().mean()).item() + torch.tensor(len(r) / (len(g) - 1)).double().log().item()


def exact(log_p: Tensor, log_q: Tensor, rounds: int = 1000, seed: int = 0) -> Measure:
    """KL(p | q) from both log-densities [N] at samples of p, in nats, without bias: for laws that are known, as mixtures'."""
    if log_p.shape != log_q.shape or log_p.ndim != 1:
        raise OrnsteinError(f"log-densities {list(log_p.shape)} and {list(log_q.shape)}", "Give one of each a sample, [N].")
    ratio = log_p.detach().double() - log_q.detach().double()
    if len(ratio) < 2 or bool(ratio.isnan().any()):
        raise OrnsteinError(f"{len(ratio)} log-densities, some not a number", "Give at least 2 samples, all of them of p.")
    low, high = bootstrap(ratio, rounds, seed)
    return Measure(ratio.mean().item(), low, high, len(ratio), "kl exact", "nats", "lower")
