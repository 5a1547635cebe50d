"""How good are a model's pictures? Draws for the captions of a data set and measures them against its real pictures.

Every figure comes with its interval, the feature extractor that it rests on, and its floor: what real pictures score
against real pictures. A figure near its floor cannot be told from real by that extractor; figures of different extractors
cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.model import Model

__all__ = ["METRICS", "evaluate"]

METRICS = ("kid", "frechet", "prdc:quantity=precision", "prdc:quantity=recall", "prdc:quantity=coverage")


def evaluate(model: Model, count: int = 200, seed: int = 0, *, batch: int = 64,
             progress: Callable[[int, int], None] | None = None) -> list[Any]:  # fmt: skip
    """Measures of `count` pictures, by the metrics of the house; class accuracy too where the data are digits."""
    if count < 16:
        raise OrnsteinError(f"{count} pictures are too few to measure", "Ask for at least 16.")
    real, asked, labels, extractor = _reference(model, count, seed)
    real = real[
        torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:count]
    ]  # as many as are drawn
    drawn = model.generate(asked, seed=seed, batch=batch, progress=progress).x
    fake = _flat(drawn if model.codec is None else _decoded(model, drawn))
    found = [catalog.build("metrics", name, extractor=extractor)(fake, real) for name in METRICS]
    return [catalog.build("metrics", "accuracy")(fake, labels), *found] if labels is not None else found


def _reference(model: Model, count: int, seed: int) -> tuple[Tensor, list[Any], Tensor | None, str]:
    """(real pictures, what to ask for, the labels asked for, extractor) of the data that the model was made for."""
    order = torch.Generator().manual_seed(seed)
    if model.shape == (1, 8, 8):
        data = catalog.build("data", "digits", split="all")
        labels = data.labels[torch.randint(len(data), (count,), generator=order)]
        return data.images(), labels.tolist(), labels, "digits"
    if model.shape[0] == 4 and model.shape[1] in (32, 64):
        data = catalog.load("data", "emoji").subset("all")
        captions = [data.captions[i] for i in torch.randint(len(data), (count,), generator=order).tolist()]
        real = torch.nn.functional.interpolate(data.images(), size=tuple(model.shape[1:]), mode="bilinear")
        return _flat(real), captions, None, "random-conv"
    raise OrnsteinError(f"no data in the house has the shape {model.shape} of '{model.name}'",
                        "Measure with the parts of metrics/ against pictures of your own.")  # fmt: skip


def _decoded(model: Model, latents: Tensor) -> Tensor:
    """Through the codec, which lies where the network does."""
    return model.codec.decode(latents.to(next(model.backbone.parameters()).device)).cpu()


def _flat(images: Tensor) -> Tensor:
    """Premultiplied RGBA over white, since extractors know no transparency; others as they are. [N, 1 or 3, H, W]."""
    if images.shape[1] != 4:
        return images.clamp(-1, 1)
    colour, alpha = (images[:, :3] + 1) / 2, (images[:, 3:] + 1) / 2
    return ((colour + 1 - alpha) * 2 - 1).clamp(-1, 1)
