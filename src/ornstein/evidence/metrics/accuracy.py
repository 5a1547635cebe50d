"""Evidence for class accuracy: a judge that reads real digits, and an interval that covers where others do not."""

from __future__ import annotations

import torch

from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.accuracy import Accuracy
from ornstein.metrics.layers.measure import proportion

from ._stimuli import LEVELS, damage, digits, illegibility, some

CLAIM = ("The shipped classifier reads over 97% of held-out real digits, never more of them as noise grows, and the "
         "exact interval covers at least 95% at every true accuracy tried, where the normal one drops below 90%.")

TRUE = (0.80, 0.90, 0.95, 0.98, 0.99)


def run(quick: bool = True) -> Evidence:
    """Coverage is computed, not sampled: the sum of the binomial masses whose interval holds the true accuracy."""
    n = 100 if quick else 400
    exact, normal, wilson = ([mass_inside(n, p, rule) for p in TRUE] for rule in (proportion, wald, score))
    x, y = digits()
    held = test_digits()
    real = Accuracy()(*held)
    curves = []
    for seed in range(3):
        clean, labels = some(seed, 300)
        levels = (0.0, *LEVELS["noise"])
        curves.append([1 - illegibility(damage(clean, "noise", level, seed), labels) for level in levels])
    falls = [float(all(a >= b for a, b in zip(c, c[1:]))) for c in curves]
    chance = Accuracy()(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1, y).value
    share = f"least coverage of 95% intervals over five accuracies, n={n} (0.95 or more)"
    rows = [Row("Clopper-Pearson", "method", share, [min(exact)]),
            Row("normal (Wald)", "natural", share, [min(normal)]),
            Row("Wilson", "equal-cost", share, [min(wilson)]),
            Row("accuracy", "method", "never rises with noise (1 = yes)", falls),
            Row("accuracy on 360 real test digits", "reference", "share (higher)", [real.value]),
            Row("accuracy on uniform noise", "floor", "share (0.1 is chance)", [chance])]  # fmt: skip
    sound = real.value > 0.97 and min(falls) == 1
    return Evidence(CLAIM, rows, verdict(sound and min(exact) >= 0.95 and min(normal) < 0.9, sound))


def test_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 360 real digits that the classifier never saw: every fifth of the file."""
    data = Digits("all")
    return data.images()[::5], data.labels[::5]


test_digits.__test__ = False


def mass_inside(n: int, p: float, rule) -> float:
    """Probability that the interval of `rule(hits, n)` holds p when hits are binomial."""
    hits = torch.arange(n + 1, dtype=torch.float64)
    log = torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(hits + 1) - torch.lgamma(n - hits + 1)
    mass = torch.exp(log + hits * torch.tensor(p).double().log() + (n - hits) * torch.tensor(1 - p).double().log())
    return sum(m for h, m in enumerate(mass.tolist()) if m > 1e-9 and rule(h, n)[0] <= p <= rule(h, n)[1])


def wald(hits: int, n: int) -> tuple[float, float]:
    """p -+ 1.96 sqrt(p (1 - p) / n)."""
    p = hits / n
    width = 1.96 * (p * (1 - p) / n) ** 0.5
    return p - width, p + width


def score(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of 1927."""
    p, z = hits / n, 1.96
    middle, width = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - width) / (1 + z * z / n), (middle + width) / (1 + z * z / n)
