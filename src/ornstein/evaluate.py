"""How good are a model's pictures? Draws for the captions of a data set and measures them against its real pictures.

Every figure comes with its interval, the feature extractor that it rests on, and its floor: what real pictures score
against real pictures. A figure near its floor cannot be told from real by that extractor; figures of different extractors
cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.model import Model

__all__ = ["METRICS", "evaluate", "flatten", "real_pictures"]

METRICS = ("kid", "frechet", "prdc:quantity=precision", "prdc:quantity=recall", "prdc:quantity=coverage")


def evaluate(model: Model, count: int = 200, seed: int = 0, *, batch: int = 64,
             progress: Callable[[int, int], None] | None = None) -> list[Any]:  # fmt: skip
    """Measures of `count` pictures, by the metrics of the house; class accuracy too where the data are digits."""
    if count < 16:
        raise OrnsteinError(f"{count} pictures are too few to measure", "Ask for at least 16.")
    real, extractor = real_pictures(model)
    asked, labels = _asked(model, count, seed)
    real = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:count]]  # as many as are drawn
    fake = flatten(model, model.generate(asked, seed=seed, batch=batch, progress=progress).x)
    found = [catalog.build("metrics", name, extractor=extractor)(fake, real) for name in METRICS]
    return [catalog.build("metrics", "accuracy")(fake, labels), *found] if labels is not None else found


def real_pictures(model: Model) -> tuple[Tensor, str]:
    """Pictures [N, 1 or 3, H, W] of the data that the model was made for, and the extractor to see them with."""
    if model.shape == (1, 8, 8):
        return catalog.build("data", "digits", split="all").images(), "digits"
    if model.shape[0] == 4 and model.shape[1] in (32, 64):
        data = catalog.load("data", "emoji").subset("all")
        return _flat(F.interpolate(data.images(), size=tuple(model.shape[1:]), mode="bilinear")), "random-conv"
    raise OrnsteinError(f"no data in the house has the shape {model.shape} of '{model.name}'",
                        "Measure with the parts of metrics/ against pictures of your own.")  # fmt: skip


def _asked(model: Model, count: int, seed: int) -> tuple[list[Any], Tensor | None]:
    """What to ask for, as often as the data have it, and its labels where it has some."""
    order = torch.Generator().manual_seed(seed)
    if model.shape == (1, 8, 8):
        data = catalog.build("data", "digits", split="all")
        labels = data.labels[torch.randint(len(data), (count,), generator=order)]
        return labels.tolist(), labels
    data = catalog.load("data", "emoji").subset("all")
    return [data.captions[i] for i in torch.randint(len(data), (count,), generator=order).tolist()], None


def flatten(model: Model, latents: Tensor) -> Tensor:
    """Latents [N, C, H, W] as pictures [N, 1 or 3, H, W] in [-1, 1], through the codec, which lies where the network does."""
    if model.codec is not None:
        latents = model.codec.decode(latents.to(next(model.backbone.parameters()).device)).cpu()
    return _flat(latents)


def _flat(images: Tensor) -> Tensor:
    """Premultiplied RGBA over white, since extractors know no transparency; others as they are. [N, 1 or 3, H, W]."""
    if images.shape[1] != 4:
        return images.clamp(-1, 1)
    colour, alpha = (images[:, :3] + 1) / 2, (images[:, 3:] + 1) / 2
    return ((colour + 1 - alpha) * 2 - 1).clamp(-1, 1)
