"""How much a plan loses beside a reference run, by many measures, as figures with intervals that can be promised.

A loss is 0 for the reference itself and grows as pictures get worse. *Paired* losses compare picture with picture of the
same seed; *conditional* ones ask how much more often the answer is wrong; *distributional* ones how much further the set of
pictures is from real ones than the reference's set, by a jackknife over groups, so that the interval is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan
from ornstein.model import Subject
from ornstein.rewards import reward

__all__ = ["LOSSES", "Loss", "Trial", "fewest", "student"]

GROUPS = 8  # that a distributional loss leaves out in turn
ENOUGH = 100  # steps of a reference
UNSEEN = 2  # samples as bad as the worst seen, that are taken to have been missed by chance
WORDS = {
    "latent": "paired: |x - reference| / |reference| of the latents, per sample",
    "rms": "paired: root of the mean squared difference of pixels in [0, 1]; PSNR in dB is -20 log10 of it",
    "ssim": "paired: 1 - SSIM",
    "perceptual": "paired: distance of features",
    "accuracy": "conditional: how much more often the classifier of the data sees another class (digits)",
    "agreement": "conditional: how much less the pictures agree with their captions, as a cosine (emoji)",
    "frechet": "distributional: how much further from real pictures by Frechet distance",
    "kid": "distributional: how much further from real pictures by kernel distance",
}
LOSSES = tuple(WORDS)
PAIRED = ("latent", "rms", "ssim", "perceptual")


@lru_cache(maxsize=256)
def student(confidence: float, freedom: int) -> float:
    """One-sided quantile of Student's t: the root of its distribution function, which is a finite sum for whole degrees of
    freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    n, low, high = max(freedom, 1), 0.0, math.pi / 2
    for _ in range(60):  # the angle whose tangent is t / sqrt(n), by halving
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, n) < abs(2 * confidence - 1) else (low, middle)
    return math.copysign(math.tan(low) * math.sqrt(n), confidence - 0.5)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < tan(angle) sqrt(freedom))."""
    odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
    term = total = (cosine if odd else 1.0) if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Loss:
    """values [n]: of samples, of groups of samples, or (conditional) 1 for a new miss, -1 for a new hit, else 0."""

    metric: str
    values: Tensor

    @property
    def mean(self) -> float:
        return self.values.mean().item()

    @property
    def n(self) -> int:
        return len(self.values)

    def below(self, confidence: float = 0.95) -> float:
        """The mean loss is below this, with this confidence (one-sided)."""
        if self.metric == "accuracy":
            return _changed(int((self.values > 0).sum()), int((self.values < 0).sum()), self.n, confidence)
        if self.metric in PAIRED and self.n > 1:  # a few trajectories end at another picture: no bound knows of those not seen
            feared = Loss("feared", torch.cat([self.values, self.values.max().expand(UNSEEN)]))
            return feared.mean + feared._width(confidence, feared._skew())
        return self.mean + self._width(confidence, self._skew())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Of the mean; a paired loss is never below 0."""
        side = (1 + confidence) / 2
        if self.metric == "accuracy":
            return -Loss(self.metric, -self.values).below(side), self.below(side)
        low = self.mean - self._width(side, 0.0)
        return max(low, 0.0) if self.metric in PAIRED else low, self.below(side)

    def _skew(self) -> float:
        gap = self.values - self.values.mean()
        spread = gap.square().mean().item() ** 0.5
        return max((gap**3).mean().item() / spread**3, 0.0) if spread > 0 else 0.0

    def _width(self, confidence: float, skew: float) -> float:
        """From the mean to its bound. Few great losses among many small ones make the usual bound too low: a skew to the right
        is put straight by the cubic of Hall ("On the removal of skewness by transformation", 1992)."""
        if self.n < 2:
            return math.inf
        quantile, root = student(confidence, self.n - 1), math.sqrt(self.n)
        if skew > 1e-6:
            inside = 1 - skew * (quantile / root + skew / (6 * self.n))
            quantile = max(quantile, 3 * root / skew * (1 - math.copysign(abs(inside) ** (1 / 3), inside)))
        return quantile * self.values.std().item() / root


def _changed(worse: int, better: int, n: int, confidence: float) -> float:
    """Above the difference of two paired shares, (worse - better) / n, with this confidence: the score bound of Tango
    ("Equivalence test and confidence interval for the difference in proportions for the paired-sample design", 1998), and
    where nothing changed the exact one."""
    z = NormalDist().inv_cdf(confidence)

    def far(d: float) -> bool:
        """Whether the difference could hardly be d, from what was seen."""
        b, c = (2 * n - worse + better) * d - worse - better, -better * d * (1 - d)
        share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return worse - better - n * d < -z * math.sqrt(max(n * (2 * share + d * (1 - d)), 0.0))

    low, high = (worse - better) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if far(middle) else (middle, high)
    return max(high, 1 - (1 - confidence) ** (1 / n)) if not worse + better else high


class Trial:
    """Plans side by side on one model: the same prompts, seeds and reference for all; what was drawn is kept.

    reference: the plan that counts as lossless; by default the model's own with 60 steps. batch: samples at a time.
    """

    def __init__(self, model: Subject, prompts: Sequence[Any] = (), reference: Plan | None = None, batch: int = 16) -> None:
        self.model, self.batch = model, batch
        self.prompts = list(prompts) or default_prompts(model)
        self.reference = reference or reference_of(model)
        self._drawn: dict[int, Tensor] = {}  # of the reference, by seed
        self._real: Tensor | None = None

    def asked(self, count: int, first: int = 0) -> list[Any]:
        return [self.prompts[i % len(self.prompts)] for i in range(first, first + count)]

    def draw(self, plan: Plan, seed: int, count: int) -> tuple[Tensor, Any]:
        """(latents [count, ...], record) of one run."""
        made = self.model.generate(self.asked(count), plan, seed=seed, batch=self.batch)
        return made.x, made.record

    def truth(self, seed: int, count: int) -> Tensor:
        """Latents of the reference, of which as many as were ever asked for are kept."""
        if len(self._drawn.get(seed, ())) < count:
            self._drawn[seed] = self.draw(self.reference, seed, count)[0]
        return self._drawn[seed][:count]

    def check(self, metric: str, count: int) -> None:
        """Raises where this loss cannot be told of so many samples of this model."""
        if metric not in LOSSES:
            raise unknown("loss", metric, LOSSES)
        if metric == "latent" and getattr(self.model.process, "discrete", False):
            raise OrnsteinError(f"the samples of '{self.model.name}' are tokens, which are right or wrong but not near",
                                "Take a loss of pictures, such as rms, accuracy or frechet.")  # fmt: skip
        if metric == "accuracy":
            self._labels(count)
        if metric == "agreement":
            reward("agreement", self.model)
        if count < fewest(metric):
            raise OrnsteinError(f"{count} pictures are too few for {metric}", f"Give {fewest(metric)} or more.")

    def loss(self, metric: str, x: Tensor, seed: int) -> Loss:
        """Of latents x [n, ...] that were drawn with this seed."""
        self.check(metric, len(x))
        truth = self.truth(seed, len(x))
        if metric == "latent":
            gap = (x - truth).flatten(1).double().norm(dim=1) / truth.flatten(1).double().norm(dim=1)
            return Loss(metric, gap)
        if metric == "agreement":
            return Loss(metric, self._agree(truth) - self._agree(x))
        drawn, right = self.pixels(x), self.pixels(truth)
        if metric in PAIRED:
            return Loss(metric, _paired(metric)(drawn, right).double())
        if metric == "accuracy":
            return Loss(metric, self._misses(drawn) - self._misses(right))
        return Loss(metric, self._further(metric, drawn, right))

    def floor(self, metric: str, count: int, seed: int = 0) -> Loss:
        """The reference against itself with other noise: what this loss is between two pictures that are equally good."""
        return self.loss(metric, self.truth(seed + 7919, count), seed)

    def pixels(self, x: Tensor) -> Tensor:
        """[n, 1 or 3, H, W] in [-1, 1], premultiplied RGBA over white."""
        from ornstein.evaluate import flatten

        return flatten(self.model, x)

    def _labels(self, count: int) -> Tensor:
        if self.model.shape != (1, 8, 8):
            raise OrnsteinError(f"there is no classifier of the pictures of '{self.model.name}'",
                                "Take a paired loss, such as latent or perceptual.")  # fmt: skip
        asked = [str(p).strip() for p in self.asked(count)]
        if wrong := next((p for p in asked if p not in "0123456789" or len(p) != 1), None):
            raise OrnsteinError(f"the prompt '{wrong}' is no digit, so no answer to it is right", "Ask for 0 to 9 alone.")
        return torch.tensor([int(p) for p in asked])

    @torch.no_grad()
    def _agree(self, x: Tensor) -> Tensor:
        """How well each of these latents [n, ...] shows what was asked for, float64."""
        judge, asked, said = reward("agreement", self.model), self.asked(len(x)), []
        for first in range(0, len(x), self.batch):
            some = slice(first, first + self.batch)
            said.append(judge(x[some], self.model.encode(asked[some])))
        return torch.cat(said).double().cpu()

    def _misses(self, pixels: Tensor) -> Tensor:
        labels = self._labels(len(pixels))
        from ornstein.metrics.layers.digits import predict

        return (predict(pixels) != labels).double()

    def _further(self, metric: str, drawn: Tensor, right: Tensor) -> Tensor:
        """Jackknife pseudo-values, each without one group of prompts: their mean has no bias from few pictures, which would
        praise a plan whose pictures are all alike, and they spread as the difference of the two distances does."""
        from ornstein.evaluate import real_pictures
        from ornstein.metrics.frechet import between
        from ornstein.metrics.kid import mmd2
        from ornstein.metrics.layers.features import features

        if self._real is None:
            real, self._extractor = real_pictures(self.model)
            self._real = features(real, self._extractor, "real")
        sides = [features(side, self._extractor, "drawn") for side in (drawn, right)]

        def further(rows: Tensor) -> float:
            if metric == "frechet":
                return between(sides[0][rows], self._real) - between(sides[1][rows], self._real)
            one, other = (mmd2(side[rows], self._real, 3, 0, torch.Generator()).item() for side in sides)
            return one - other

        rows = torch.arange(len(drawn))
        groups, whole = rows.tensor_split(GROUPS), further(rows)
        less = [further(torch.cat([g for g in groups if g is not out])) for out in groups]
        return torch.tensor([GROUPS * whole - (GROUPS - 1) * v for v in less], dtype=torch.float64)


def fewest(metric: str) -> int:
    """Pictures that this loss needs."""
    return 1 if metric in (*PAIRED, "accuracy", "agreement") else 8 * GROUPS


def _paired(metric: str) -> Callable[[Tensor, Tensor], Tensor]:
    if metric == "rms":
        return lambda a, b: ((a - b) / 2).square().flatten(1).mean(1).sqrt()
    part = catalog.build("metrics", metric)
    sign = (lambda v: 1 - v) if metric == "ssim" else (lambda v: v)

    def each(a: Tensor, b: Tensor) -> Tensor:
        found = part.each(a, b)
        return sign(found[0] if isinstance(found, tuple) else found)

    return each


def reference_of(model: Subject, steps: int = 60) -> Plan:
    """The model's own plan with so many steps that more change nothing one can see: a pipeline whose own scheduler wants a
    thousand does not need them with the usual solver."""
    return model.plan(steps=max(steps, min(model.plan().steps, ENOUGH)))


def default_prompts(model: Subject) -> list[Any]:
    """What a model is asked for where nobody says: the ten digits, or the captions of its data."""
    if model.encoder is None:
        return [""]
    if model.shape == (1, 8, 8):
        return [str(d) for d in range(10)]
    if model.shape[0] == 4 and model.shape[1] in (32, 64):
        return list(catalog.load("data", "emoji").subset("all").captions)
    raise OrnsteinError(f"nobody said what to ask '{model.name}' for", "Give prompts.")
