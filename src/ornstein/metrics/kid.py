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

from .layers import kernel
from .layers.features import Extractor, features_of_both
from .layers.kernel import blocks, weights
from .layers.measure import Measure, halves, spread

__all__ = ["KID", "mmd2", "weights"]


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
        draws = blocks(g, r, self.kernel, self.block, self.rounds, self.seed)
        low, high = spread(draws[0].item(), draws[1:].tolist())
        floor = blocks(*halves(r, self.seed), self.kernel, self.block, 0, self.seed)[0].item()
        return Measure(draws[0].item(), low, high, len(g), "kid", "", "lower", name, floor)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """(a.b / D + 1)^degree of features [N, D], [M, D]: [N, M]."""
        return polynomial(a, b, self.degree)


def polynomial(a: Tensor, b: Tensor, degree: int) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** degree


def mmd2(g: Tensor, r: Tensor, degree: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Unbiased MMD^2 of features [N, D], [M, D] under weights 1, then under `rounds` multinomial reweightings."""
    return kernel.mmd2(g, r, lambda a, b: polynomial(a, b, degree), rounds, generator)
