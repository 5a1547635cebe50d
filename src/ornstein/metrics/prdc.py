"""Precision, recall, density, coverage: fidelity and diversity apart, by balls around nearest neighbours.

Tuomas Kynkaanniemi, Tero Karras, Samuli Laine, Jaakko Lehtinen, Timo Aila, "Improved precision and recall metric for
assessing generative models", 2019, arXiv:1904.06991. Muhammad Ferjad Naeem, Seong Joon Oh, Youngjung Uh, Yunjey Choi,
Jaejun Yoo, "Reliable fidelity and diversity metrics for generative models", 2020, arXiv:2002.09797.

With B(x) the ball around x that reaches to its k-th nearest neighbour in x's own set:
    precision = share of g_j in the union of the B(r_i)         recall   = share of r_i in the union of the B(g_j)
    density   = (1 / kM) sum_j #{ i : g_j in B(r_i) }           coverage = share of r_i whose B(r_i) holds some g_j

Precision and density ask whether generated samples look real (density may pass 1), recall and coverage whether all of
the reference is reached. The interval takes the balls as given: exact binomial for the three shares, bootstrap for
density. The floor is the figure of one half of the reference against the other. Cost: O(N M D) distances.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown

from .layers.balls import per_sample, reach
from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, bootstrap, halves, proportion

__all__ = ["PRDC", "per_sample", "reach"]

QUANTITIES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class PRDC:
    """One of the four between generated and reference samples, images [N, C, H, W] or features [N, D]."""

    quantity: str = "precision"  # precision, recall, density or coverage; `all` gives the four for one price
    k: int = 5  # nearest neighbours that set a ball's radius (Naeem et al.; Kynkaanniemi et al. use 3)
    extractor: str | Extractor = "random-conv"  # name, an Extractor, or "precomputed:NAME"
    rounds: int = 1000  # bootstrap resamples behind the interval of density
    seed: int = 0  # of the bootstrap and of the floor's split

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise unknown("prdc quantity", self.quantity, QUANTITIES)
        if self.k < 1:
            raise OrnsteinError(f"prdc has k={self.k}", "Give k >= 1.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure of the chosen quantity, higher is better; its name is the quantity's with k ("precision@5")."""
        return self.all(generated, reference)[self.quantity]

    def all(self, generated: Tensor, reference: Tensor) -> dict[str, Measure]:
        """All four Measures by name. Half of the reference must hold more than k samples, for the floor."""
        g, r, name = features_of_both(generated, reference, self.extractor, least=2 * self.k + 2)
        found, floor = per_sample(g, r, self.k), per_sample(*halves(r, self.seed), self.k)
        answer = {}
        for quantity, each in found.items():
            value = each.mean().item()
            if quantity == "density":
                low, high = bootstrap(each, self.rounds, self.seed)
            else:
                low, high = proportion(round(each.sum().item()), len(each))
            answer[quantity] = Measure(value, low, high, len(g), f"{quantity}@{self.k}", "", "higher", name,
                                       floor[quantity].mean().item())  # fmt: skip
        return answer
