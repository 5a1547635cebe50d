"""Evidence for KID: no bias from small sets, where the Frechet distance and the plain kernel estimate have one."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.frechet import between
from ornstein.metrics.kid import KID, mmd2
from ornstein.metrics.layers.features import features

from ._stimuli import LEVELS, damage, digits, rising

CLAIM = ("Between real and real digits KID averages to 0 within 3 standard errors at 25 and at 100 samples a side, "
         "where the Frechet distance and the biased kernel estimate stay above 0; it rises with noise and blur.")


def run(quick: bool = True) -> Evidence:
    """5 seeds x 12 splits of 8x8 digits, features random-conv; figures as a share of the one for noise 0.3."""
    x, _ = digits()
    seen = features(x, "random-conv", "reference")
    noisy = features(damage(x, "noise", 0.3), "random-conv", "generated")
    full = KID("precomputed:random-conv", rounds=10)
    scale, frechet_scale = full(noisy[:900], seen[900:]).value, between(noisy[:900], seen[900:])
    seeds, rows, unbiased = range(5 if quick else 20), [], True
    for n in (25, 100):
        found = [[split(seen, n, 100 * s + i) for i in range(12)] for s in seeds]
        means = [[sum(f[j] for f in group) / len(group) for group in found] for j in range(3)]
        kid, biased, frechet = ([v / c for v in m] for m, c in zip(means, (scale, scale, frechet_scale)))
        deviation = torch.tensor(kid, dtype=torch.float64).std().item() / len(kid) ** 0.5
        unbiased = unbiased and abs(sum(kid) / len(kid)) < 3 * deviation and sum(biased) > 4 * abs(sum(kid))
        label = f"real against real, {n} a side, over the figure of noise 0.3 (0 is right)"
        rows += [Row("KID", "method", label, kid), Row("biased kernel estimate", "equal-cost", label, biased),
                 Row("Frechet", "natural", label, frechet)]  # fmt: skip
    order = [min(rising([mean_kid(damage(x[:400], k, level / s, seed), seen[400:800]) for level in LEVELS[k]])
                 for k, s in (("noise", 1), ("blur", 4))) for seed in range(3)]  # fmt: skip
    rows.append(Row("KID", "method", "strict order under noise and blur (1 = yes)", order))
    return Evidence(CLAIM, rows, verdict(unbiased and min(order) == 1, unbiased or min(order) == 1))


def mean_kid(images: torch.Tensor, seen: torch.Tensor) -> float:
    """KID of images against features, without an interval."""
    return mmd2(features(images, "random-conv", "generated"), seen, 3, 0, torch.Generator())[0].item()


def split(seen: torch.Tensor, n: int, seed: int) -> tuple[float, float, float]:
    """KID, the kernel estimate that keeps i = j, and Frechet, between two disjoint sets of n real samples."""
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
    g, r = seen[order[:n]], seen[order[n : 2 * n]]
    plain = mmd2(g, r, 3, 0, torch.Generator())[0].item()

    def excess(a: torch.Tensor) -> float:  # mean over all pairs minus mean over i != j
        k = (a @ a.T / a.shape[1] + 1) ** 3
        return (k.mean() - (k.sum() - k.trace()) / (n * (n - 1))).item()

    return plain, plain + excess(g) + excess(r), between(g, r)
