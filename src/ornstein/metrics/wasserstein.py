"""Wasserstein distance of two sets of features: exact on a line, averaged over lines (sliced), or by the best assignment.

Sliced: Julien Rabin, Gabriel Peyre, Julie Delon, Marc Bernot, "Wasserstein barycenter and its application to texture
mixing", Scale Space and Variational Methods, 2011. With F^-1 the quantile functions and d a direction on the sphere:

    W2^2(g, r) = integral_0^1 (F_g^-1(u) - F_r^-1(u))^2 du   on a line,        SW2^2 = E_d W2^2(d.g, d.r)
    W2^2(g, r) = min over permutations p of (1/N) sum_i |g_i - r_p(i)|^2       by assignment, sets of one size

The integral is exact for empirical laws of any two sizes. No law is assumed: unlike the Frechet distance (W2 of fitted
Gaussians) it tells laws of equal mean and covariance apart. Both estimates are above 0 for equal laws, the assignment's
heavily so in many dimensions: read the floor, one half of the reference against the other. The interval is the value -+
1.96 bootstrap deviations. Cost: directions * N log N, or N^3 for the assignment (scipy), (rounds + 2) times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown

from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, halves, spread

__all__ = ["Wasserstein", "assigned", "on_a_line", "sliced"]

METHODS = ("sliced", "assignment")


@dataclass(frozen=True)
class Wasserstein:
    """W2 between generated and reference samples, images [N, C, H, W] or features [N, D]; in the features' unit."""

    extractor: str | Extractor = "pixels"  # name, an Extractor, or "precomputed:NAME"
    method: str = "sliced"  # or 'assignment': W2 of the two empirical laws themselves, needs scipy and equal sizes
    directions: int = 128  # of the sliced distance; features of one dimension need none
    rounds: int = 40  # bootstrap resamples behind the interval
    seed: int = 0  # of directions, bootstrap and the floor's split

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("wasserstein method", self.method, METHODS)
        if self.directions < 1 or self.rounds < 10:
            raise OrnsteinError(f"wasserstein has directions={self.directions}, rounds={self.rounds}",
                                "Give directions >= 1, rounds >= 10.")  # fmt: skip

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """Measure, lower is better; n is the number of generated samples."""
        g, r, extractor = features_of_both(generated, reference, self.extractor, least=4)
        generator = torch.Generator().manual_seed(self.seed)
        if self.method == "assignment":
            name, between = "wasserstein", assigned
        else:
            name, lines = "sliced-wasserstein", directions(g.shape[1], self.directions, generator).to(g)
            g, r = g @ lines, r @ lines
            between = on_a_line
        value = between(g, r)
        draws = [between(*(x[torch.randint(len(x), (len(x),), generator=generator).to(x.device)] for x in (g, r)))
                 for _ in range(self.rounds)]  # fmt: skip
        low, high = spread(value, draws)
        return Measure(value, max(low, 0.0), high, len(g), name, "", "lower", extractor, between(*halves(r, self.seed)))


def directions(dims: int, count: int, generator: torch.Generator) -> Tensor:
    """[dims, count] random unit vectors; on a line the one there is."""
    if dims == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    drawn = torch.randn(dims, count, generator=generator, dtype=torch.float64)
    return drawn / torch.linalg.vector_norm(drawn, dim=0)


def sliced(g: Tensor, r: Tensor, count: int = 128, seed: int = 0) -> float:
    """SW2 of features [N, D], [M, D]. For equal laws but for their means it is |gap| / sqrt(D), up to the directions drawn."""
    lines = directions(g.shape[1], count, torch.Generator().manual_seed(seed)).to(g)
    return on_a_line(g @ lines, r @ lines)


def on_a_line(g: Tensor, r: Tensor) -> float:
    """Root of the mean over columns of the exact W2^2 between the columns of [N, P] and [M, P]."""
    g, r = g.sort(0).values, r.sort(0).values
    if len(g) == len(r):
        return (g - r).square().mean().sqrt().item()
    cuts = torch.cat([torch.arange(1, len(x) + 1, dtype=torch.float64) / len(x) for x in (g, r)]).sort().values.to(g)
    widths = cuts.diff(prepend=cuts.new_zeros(1))
    middles = cuts - widths / 2  # both quantile functions are constant between two cuts
    at = [(middles * len(x)).floor().long().clamp(0, len(x) - 1) for x in (g, r)]
    return (widths @ (g[at[0]] - r[at[1]]).square()).mean().sqrt().item()


def assigned(g: Tensor, r: Tensor) -> float:
    """W2 of two empirical laws of one size [N, D], by the cheapest pairing of their samples."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise OrnsteinError("the assignment of samples needs scipy", "Run: pip install scipy, or choose sliced.") from error
    if len(g) != len(r):
        raise OrnsteinError(f"{len(g)} and {len(r)} samples cannot be assigned", "Give equal numbers, or choose sliced.")
    cost = torch.cdist(g, r, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    rows, columns = linear_sum_assignment(cost.numpy())
    return cost[torch.from_numpy(rows), torch.from_numpy(columns)].mean().sqrt().item()
