"""The answer of a metric, its 95% intervals, and the checks that every metric makes of its inputs.

Intervals: percentile bootstrap of a mean (Bradley Efron, "Bootstrap methods: another look at the jackknife", 1979);
for proportions the exact one of Clopper and Pearson ("The use of confidence or fiducial limits illustrated in the case
of the binomial", 1934), which keeps a width where every sample passed and a bootstrap would have none.
"""

# budget: a figure, its intervals and the checks of what it is measured on belong together, and every metric asks all three

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["Measure", "bootstrap", "check_images", "check_pair", "check_tensors", "halves", "order_interval",
           "paired", "proportion", "spread"]

SLACK = 1.5  # largest magnitude taken for an image in [-1, 1]: samplers overshoot a little, other scales by far


@dataclass(frozen=True)
class Measure:
    """A measured figure. `low` and `high` bound a 95% interval over the samples that were given."""

    value: float
    low: float
    high: float
    n: int  # generated samples, or pairs
    name: str  # of the metric: "ssim"
    unit: str = ""  # "dB", or empty for a pure number
    better: str = "higher"  # or "lower"
    extractor: str = "none"  # name of the feature extractor
    floor: float | None = None  # real against real; of a pair: the reference run against itself with other seeds

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise OrnsteinError(f"measure '{self.name}' says better='{self.better}'", "Write 'higher' or 'lower'.")

    def better_than(self, other: Measure, surely: bool = False) -> bool:
        """Whether this figure beats `other`; `surely`: and the two intervals do not touch. Unlike kinds raise."""
        for word in ("name", "unit", "better", "extractor"):
            mine, theirs = getattr(self, word), getattr(other, word)
            if mine != theirs:
                raise OrnsteinError(f"measures of different {word} do not compare: '{mine}' and '{theirs}'",
                                    f"Measure both with the same {word}.")  # fmt: skip
        if self.better == "higher":
            return self.low > other.high if surely else self.value > other.value
        return self.high < other.low if surely else self.value < other.value

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        floor = "" if self.floor is None else f", reference against reference {self.floor:.4g}"
        seen = "" if self.extractor == "none" else f", seen by {self.extractor}"
        return f"{self.name} {self.value:.4g}{unit} [{self.low:.4g}, {self.high:.4g}] (n={self.n}{seen}{floor})"


def paired(each: Callable[[Tensor, Tensor], Tensor], generated: Tensor, reference: Tensor, again: Tensor | None = None,
           *, name: str, unit: str = "", better: str = "higher", extractor: str = "none", rounds: int = 1000, seed: int = 0,
           link: Callable[[Tensor], Tensor] = lambda mean: mean, quantile: float | None = None) -> Measure:  # fmt: skip
    """The one way in which all paired metrics come to their Measure: link(mean of each pair's figure).

    each(x, y): one figure a pair, [N]; link: of the mean to the value, rising or falling; quantile: takes the place of the
    mean, with an exact interval. again: what the reference run
    makes with other seeds, of the reference's shape; its figure against the reference is the floor (the self-noise).
    """
    def summary(values: Tensor) -> Tensor:
        return values.mean() if quantile is None else torch.tensor(order_interval(values, quantile)[0]).double()

    values, floor = each(generated, reference).detach().double(), None
    ends = bootstrap(values, rounds, seed) if quantile is None else order_interval(values, quantile)[1:]
    ends = [link(torch.tensor(v, dtype=torch.float64)).item() for v in ends]
    if again is not None:
        check_again(again, reference)
        floor = link(summary(each(again, reference).detach().double())).item()
    return Measure(link(summary(values)).item(), min(ends), max(ends), len(values), name, unit, better, extractor, floor)


def check_again(again: Tensor, reference: Tensor) -> None:
    """Raise where the run with other seeds does not fit the reference, is not finite, or is the reference itself."""
    if again.shape != reference.shape:
        raise OrnsteinError(f"the run with other seeds {list(again.shape)} does not fit the reference "
                            f"{list(reference.shape)}", "Repeat the reference run with other seeds.")  # fmt: skip
    check_values(again, "samples of other seeds", 2)
    if torch.equal(again, reference):
        raise OrnsteinError("the run with other seeds is the reference itself", "Give it seeds of its own.")


def bootstrap(values: Tensor, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` [N]. Infinite values are fine (no interpolation is done)."""
    values, draws = values.detach().double().cpu().flatten(), []
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, min(rounds, 4_000_000 // len(values)))
    for start in range(0, rounds, chunk):
        size = (min(chunk, rounds - start), len(values))
        draws.append(values[torch.randint(len(values), size, generator=generator)].mean(1))
    ordered = torch.cat(draws).sort().values
    low, high = int(0.025 * rounds), min(rounds - 1, math.ceil(0.975 * rounds) - 1)
    return ordered[low].item(), ordered[high].item()


def order_interval(values: Tensor, q: float) -> tuple[float, float, float]:
    """The quantile q of `values` [N] and its exact 95% interval: the order statistics x_(l), x_(u) whose ranks bound a
    binomial of N trials with share q in the middle 95%. Free of any assumption on tails."""
    ordered, n = values.detach().double().cpu().flatten().sort().values, len(values)
    i = torch.arange(n + 1, dtype=torch.float64)
    mass = math.lgamma(n + 1) - torch.lgamma(i + 1) - torch.lgamma(n - i + 1) + i * math.log(q) + (n - i) * math.log1p(-q)
    below = mass.exp().cumsum(0)  # P(X <= i), X: how many of N lie at or below the quantile
    low, high = int((below <= 0.025).sum()), int((below < 0.975).sum())
    at = [ordered[min(max(k, 0), n - 1)].item() for k in (low - 1, math.ceil(q * n) - 1, high)]
    return at[1], at[0], at[2]


def spread(value: float, draws: list[float]) -> tuple[float, float]:
    """value -+ 1.96 standard deviations of bootstrap `draws`: for statistics whose bootstrap mean is biased."""
    width = 1.96 * torch.tensor(draws, dtype=torch.float64).std().item()
    return value - width, value + width


def proportion(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson bounds of a proportion: P(X >= hits | low) = P(X <= hits | high) = (1 - level) / 2."""
    if not 0 <= hits <= n or n < 1:
        raise OrnsteinError(f"{hits} hits of {n} trials are no proportion", "Give 0 <= hits <= n and n >= 1.")
    i = torch.arange(n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(i + 1) - torch.lgamma(n - i + 1)

    def mass(p: float, part: slice) -> float:
        return torch.exp(choose + i * math.log(p) + (n - i) * math.log1p(-p))[part].sum().item()

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: mass(p, slice(hits, None)) - tail)
    high = 1.0 if hits == n else _solve(lambda p: tail - mass(p, slice(0, hits + 1)))
    return low, high


def _solve(rising: Callable[[float], float]) -> float:
    """Root in (0, 1) of a rising function, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def halves(samples: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`samples` [N, ...] shuffled (seeded) and cut into two halves of equal size: the two sides of a floor."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).to(samples.device)
    middle = len(samples) // 2
    return samples[order[:middle]], samples[order[middle : 2 * middle]]


def check_images(images: Tensor, what: str, least: int = 2) -> Tensor:
    """`images` [N, C, H, W] in [-1, 1], as they are; raises where they are not."""
    if images.ndim != 4:
        raise OrnsteinError(f"{what} images have shape {list(images.shape)}", "Give [N, C, H, W].")
    check_values(images, f"{what} images", least)
    reach = images.abs().max().item()
    if reach > SLACK:
        raise OrnsteinError(f"{what} images reach {reach:.4g}", "Scale them to [-1, 1].")
    return images


def check_values(tensor: Tensor, what: str, least: int) -> None:
    """Raise on too few samples, on integers, and on NaN or infinities (named by sample)."""
    if len(tensor) < least:
        raise OrnsteinError(f"{what}: {len(tensor)} samples are too few", f"Give at least {least}.")
    if not tensor.is_floating_point():
        raise OrnsteinError(f"{what} have type {tensor.dtype}", "Give floating-point values; images in [-1, 1].")
    bad = (~torch.isfinite(tensor)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise OrnsteinError(f"{what} hold NaN or infinities in sample {bad[0]} ({len(bad)} samples in all)",
                            "Drop them and report how many were dropped.")  # fmt: skip


def check_tensors(generated: Tensor, reference: Tensor, least: int = 2) -> None:
    """Both are finite tensors of one shape [N, ...], of any scale: latents, trajectories."""
    if generated.shape != reference.shape or generated.ndim < 2:
        raise OrnsteinError(f"generated samples {list(generated.shape)} and reference samples {list(reference.shape)} "
                            "do not pair", "Give two tensors [N, ...] of one shape.")  # fmt: skip
    check_values(generated, "generated samples", least)
    check_values(reference, "reference samples", least)


def check_pair(generated: Tensor, reference: Tensor, least: int = 2) -> None:
    """Both are images of the same shape: what a paired metric needs."""
    check_images(generated, "generated", least)
    check_images(reference, "reference", least)
    if generated.shape != reference.shape:
        raise OrnsteinError(
            f"generated images {list(generated.shape)} and reference images {list(reference.shape)} do not pair",
            "A paired metric needs one shape; for unpaired sets use frechet, kid or prdc.")  # fmt: skip
