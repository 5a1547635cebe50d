"""KID: the squared maximum mean discrepancy of two sets of features under a polynomial kernel, without bias.

Mikolaj Binkowski, Danica J. Sutherland, Michael Arbel, Arthur Gretton, "Demystifying MMD GANs", 2018, arXiv:1801.01401.

    k(x, y) = (x.y / D + 1)^3
    MMD^2 = mean_{i != j} k(g_i, g_j) + mean_{i != j} k(r_i, r_j) - 2 mean_{i, j} k(g_i, r_j)

Its expectation does not depend on the number of samples and is 0 where both sets come from one distribution: values
below 0 are right then. Sets larger than `block` are cut into disjoint blocks whose MMD^2 are averaged, so that memory
stays at block^2 and every sample counts once. The interval is the value -+ 1.96 deviations of a bootstrap that
reweights the samples and leaves out pairs of a sample with its own copy. Called KID only with the Inception network of
2017 in the publication. Cost: O(N * block * D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, halves, spread

__all__ = ["KID"]


@dataclass(frozen=True)
class KID:
    """Unbiased kernel distance between generated and reference samples, images [N, C, H, W] or features [N, D]."""

    extractor: str | Extractor = "random-conv"  # name, an Extractor, or "precomputed:NAME"
    degree: int = 3  # of the polynomial kernel (publication)
    block: int = 1000  # largest number of samples of a side in one kernel matrix (publication: 1000 a subset)
    rounds: int = 200  # bootstrap resamples behind the interval
    seed: int = 0  # of the blocks, the bootstrap and the floor's split

    def __post_init__(self) -> None:
        if self.degree < 1 or self.block < 2 or self.rounds < 10:
            raise OrnsteinError(f"kid has degree={self.degree}, block={self.block}, rounds={self.rounds}",
                                "Give degree >= 1, block >= 2, rounds >= 10.")  # fmt: skip

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure without unit, lower is better, may be below 0; n is the number of generated samples."""
        g, r, name = features_of_both(generated, reference, self.extractor, least=4)
        draws = self._blocks(g, r)
        low, high = spread(draws[0].item(), draws[1:].tolist())
        floor = self._blocks(*halves(r, self.seed), rounds=0)[0].item()
        return Measure(draws[0].item(), low, high, len(g), "kid", "", "lower", name, floor)

    def _blocks(self, g: Tensor, r: Tensor, rounds: int | None = None) -> Tensor:
        """MMD^2 averaged over disjoint random blocks: the value, then the bootstrap's values, [1 + rounds]."""
        generator = torch.Generator().manual_seed(self.seed)
        rounds = self.rounds if rounds is None else rounds
        pieces = -(-max(len(g), len(r)) // self.block)
        pieces = min(pieces, len(g) // 2, len(r) // 2)
        split_g = torch.randperm(len(g), generator=generator).tensor_split(pieces)
        split_r = torch.randperm(len(r), generator=generator).tensor_split(pieces)
        parts = [mmd2(g[i.to(g.device)], r[j.to(r.device)], self.degree, rounds, generator)
                 for i, j in zip(split_g, split_r)]  # fmt: skip
        return torch.stack(parts).mean(0)


def mmd2(g: Tensor, r: Tensor, degree: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Unbiased MMD^2 of features [N, D], [M, D] under weights 1, then under `rounds` multinomial reweightings."""
    w, v = weights(len(g), rounds, generator).to(g), weights(len(r), rounds, generator).to(r)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** degree

    def within(k: Tensor, u: Tensor) -> Tensor:
        pairs = u.sum(1) ** 2 - (u * u).sum(1)  # weight of all pairs i != j
        return (((u @ k) * u).sum(1) - (u * u) @ k.diagonal()) / pairs

    cross = ((w @ kernel(g, r)) * v).sum(1) / (w.sum(1) * v.sum(1))
    return within(kernel(g, g), w) + within(kernel(r, r), v) - 2 * cross


def weights(n: int, rounds: int, generator: torch.Generator) -> Tensor:
    """[1 + rounds, n]: ones, then how often each of n samples is drawn in n draws with replacement."""
    drawn = torch.randint(n, (rounds, n), generator=generator)
    one = torch.ones(1, n, dtype=torch.float64)
    return torch.cat([one, torch.zeros(rounds, n, dtype=torch.float64).scatter_add_(1, drawn, one.expand(rounds, n))])
