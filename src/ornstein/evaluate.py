"""How good a model is, measured: samples for the captions or labels of its data set, against the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import Plan
from ornstein.model import Generated, Model

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """measures: of ornstein.metrics, each with its interval, extractor and real-against-real floor."""

    model: str
    plan: Plan
    measures: tuple[Any, ...]
    seconds: float  # of sampling
    samples: int

    def as_dict(self) -> dict[str, Any]:
        keep = ("name", "value", "low", "high", "n", "unit", "better", "extractor", "floor")
        return {"model": self.model, "plan": vars(self.plan), "seconds": self.seconds, "samples": self.samples,
                "measures": [{k: getattr(m, k) for k in keep} for m in self.measures]}  # fmt: skip


def evaluate(model: Model, plan: Plan | None = None, samples: int = 500, seed: int = 0, data: str = "",
             progress: Callable[[int, int], None] | None = None) -> Evaluation:  # fmt: skip
    """Sample `samples` pictures and measure them against the model's data set (or `data`, as the catalog reads it).

    Reference pictures: of the split that the model names in its description, repeated captions or labels in turn.
    """
    named = data or model.config.get("data")
    if not named:
        raise OrnsteinError(f"the model '{model.name}' does not say what it was trained on", "Name it: --data digits.")
    reference = catalog.build("data", named)
    labels = getattr(reference, "labels", None)
    words = list(getattr(reference, "captions", None) or [str(int(v)) for v in labels])
    prompts = [words[i % len(words)] for i in range(samples)]
    made = model.generate(prompts, plan, seed=seed, progress=progress)
    measures = tuple(_measures(made, reference, labels, samples))
    return Evaluation(model.name, made.plan, measures, made.record.seconds, samples)


def _measures(made: Generated, reference: Any, labels: Tensor | None, samples: int) -> list[Any]:
    real, fake = _opaque(reference.images()), _opaque(made.x.clamp(-1, 1))
    digits = real.shape[1:] == (1, 8, 8)
    seen = "digits" if digits else "random-conv"
    found = [catalog.build("metrics", name, extractor=seen)(fake, real) for name in ("frechet", "kid")]
    found += catalog.build("metrics", "prdc", extractor=seen).all(fake, real).values()
    if digits and labels is not None:
        wanted = labels[torch.arange(samples) % len(labels)]
        found.append(catalog.build("metrics", "accuracy")(fake, wanted))
    return found


def _opaque(images: Tensor) -> Tensor:
    """Premultiplied RGBA over white; other pictures as they are."""
    if images.shape[1] != 4:
        return images
    colour, alpha = (images[:, :3] + 1) / 2, (images[:, 3:] + 1) / 2
    return ((colour + 1 - alpha) * 2 - 1).clamp(-1, 1)


