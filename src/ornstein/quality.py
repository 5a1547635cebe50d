"""How much a plan loses beside a reference run, by many measures, as figures with intervals that can be promised.

A loss is 0 for the reference itself and grows as pictures get worse. *Paired* losses compare picture with picture of the
same seed; *conditional* ones ask how much more often the answer is wrong; *distributional* ones how much further the set of
pictures is from real ones than the reference's set, group by group, so that the interval of a difference is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan
from ornstein.model import Model

__all__ = ["LOSSES", "Loss", "Trial", "student"]

GROUPS = 8  # of which a distributional loss is told
WORDS = {
    "latent": "paired: |x - reference| / |reference| of the latents, per sample",
    "rms": "paired: root of the mean squared difference of pixels in [0, 1]; PSNR in dB is -20 log10 of it",
    "ssim": "paired: 1 - SSIM",
    "perceptual": "paired: distance of features",
    "accuracy": "conditional: how much more often the classifier of the data sees another class (digits)",
    "frechet": "distributional: how much further from real pictures by Frechet distance",
    "kid": "distributional: how much further from real pictures by kernel distance",
}
LOSSES = tuple(WORDS)
PAIRED = ("latent", "rms", "ssim", "perceptual")


def student(confidence: float, freedom: int) -> float:
    """One-sided quantile of Student's t, by the Cornish-Fisher expansion about the normal one (good from 4 on)."""
    z, n = NormalDist().inv_cdf(confidence), max(freedom, 1)
    one = (z**3 + z) / 4
    two = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    three = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + one / n + two / n**2 + three / n**3


@dataclass(frozen=True)
class Loss:
    """values [n]: of samples, or of groups of samples."""

    metric: str
    values: Tensor

    @property
    def mean(self) -> float:
        return self.values.mean().item()

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean. A conditional loss that was never seen may yet be once in n."""
        seen = self.values.std().item() / math.sqrt(self.n) if self.n > 1 else math.inf
        return max(seen, 1 / self.n) if self.metric == "accuracy" else seen

    def below(self, confidence: float = 0.95) -> float:
        """The mean loss is below this, with this confidence (one-sided).

        Student's t, corrected for losses that lean to the right, whose means are often too low: the first term of the
        expansion of the studentised mean (Norman Johnson, "Modified t tests and confidence intervals for asymmetrical
        populations", 1978), with the skewness g of the sample: z + max(g, 0) (2 z^2 + 1) / (6 sqrt(n)).
        """
        z = student(confidence, self.n - 1)
        if self.n > 2 and self.metric != "accuracy":
            gap = self.values - self.values.mean()
            lean = (gap**3).mean() / gap.square().mean().clamp_min(1e-300) ** 1.5
            z += max(lean.item(), 0.0) * (2 * z**2 + 1) / (6 * math.sqrt(self.n))
        return self.mean + z * self.error

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        width = student((1 + confidence) / 2, self.n - 1) * self.error
        return self.mean - width, self.mean + width


class Trial:
    """Plans side by side on one model: the same prompts, seeds and reference for all; what was drawn is kept.

    reference: the plan that counts as lossless; by default the model's own with 60 steps. batch: samples at a time.
    """

    def __init__(self, model: Model, prompts: Sequence[Any] = (), reference: Plan | None = None, batch: int = 16) -> None:
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

    def loss(self, metric: str, x: Tensor, seed: int) -> Loss:
        """Of latents x [n, ...] that were drawn with this seed."""
        if metric not in LOSSES:
            raise unknown("loss", metric, LOSSES)
        truth = self.truth(seed, len(x))
        if metric == "latent":
            gap = (x - truth).flatten(1).double().norm(dim=1) / truth.flatten(1).double().norm(dim=1)
            return Loss(metric, gap)
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

    def _misses(self, pixels: Tensor) -> Tensor:
        if self.model.shape != (1, 8, 8):
            raise OrnsteinError(f"there is no classifier of the pictures of '{self.model.name}'",
                                "Take a paired loss, such as latent or perceptual.")  # fmt: skip
        from ornstein.metrics.layers.digits import predict

        labels = torch.tensor([int(p) for p in self.asked(len(pixels))])
        return (predict(pixels) != labels).double()

    def _further(self, metric: str, drawn: Tensor, right: Tensor) -> Tensor:
        from ornstein.evaluate import real_pictures

        if self._real is None:
            self._real, self._extractor = real_pictures(self.model)
        if len(drawn) < 8 * GROUPS:
            raise OrnsteinError(f"{len(drawn)} pictures are too few for {metric}", f"Give {8 * GROUPS} or more.")
        part = catalog.build("metrics", metric, extractor=self._extractor)
        sides = zip(*(side[: len(side) // GROUPS * GROUPS].chunk(GROUPS) for side in (drawn, right)))
        return torch.tensor([part(a, self._real).value - part(b, self._real).value for a, b in sides], dtype=torch.float64)


def _paired(metric: str) -> Callable[[Tensor, Tensor], Tensor]:
    if metric == "rms":
        return lambda a, b: ((a - b) / 2).square().flatten(1).mean(1).sqrt()
    part = catalog.build("metrics", metric)
    sign = (lambda v: 1 - v) if metric == "ssim" else (lambda v: v)

    def each(a: Tensor, b: Tensor) -> Tensor:
        found = part.each(a, b)
        return sign(found[0] if isinstance(found, tuple) else found)

    return each


def reference_of(model: Model, steps: int = 60) -> Plan:
    """The model's own plan with so many steps that more change nothing one can see."""
    own = model.plan()
    return model.plan(steps=max(steps, own.steps))


def default_prompts(model: Model) -> list[Any]:
    """What a model is asked for where nobody says: the ten digits, or the captions of its data."""
    if model.encoder is None:
        return [""]
    if model.shape == (1, 8, 8):
        return [str(d) for d in range(10)]
    if model.shape[0] == 4 and model.shape[1] in (32, 64):
        return list(catalog.load("data", "emoji").subset("all").captions)
    raise OrnsteinError(f"nobody said what to ask '{model.name}' for", "Give prompts.")
