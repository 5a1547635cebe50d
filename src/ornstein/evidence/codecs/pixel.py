"""Evidence for the pixel codec: what folding and statistics cost in exactness, against storing half the bits."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.codecs.pixel import Pixel
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict

CLAIM = ("Folding 2 x 2 blocks and normalising gives latents of unit size and pictures back within the stated "
         "rounding; bfloat16 latents and averaged blocks do not. As it stands the codec is the identity.")  # fmt: skip
ERROR = "largest error on held-out digits (lower)"


def run(quick: bool = True) -> Evidence:
    """Five draws of 100 digits."""
    train, test = (catalog.build("data", "digits", split=s).images() for s in ("train", "test"))
    codec = Pixel(train.mean().item(), train.std().item(), 2)
    found: dict[str, list[float]] = {"fold": [], "half": [], "mean": [], "same": [], "size": []}
    for seed in range(5):
        x = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[:100]]
        z = codec.encode(x)
        blocks = z.unflatten(1, (-1, 4)).mean(2, keepdim=True).expand(-1, -1, 4, -1, -1).flatten(1, 2)
        found["fold"].append(_worst(codec.decode(z), x))
        found["half"].append(_worst(codec.decode(z.bfloat16().float()), x))
        found["mean"].append(_worst(codec.decode(blocks), x))
        found["same"].append(_worst(Pixel().decode(Pixel().encode(x)), x))
        found["size"].append(z.std().item())
    rows = [
        Row("pixel, folded and normalised", "method", ERROR, found["fold"], "4 channels, float32"),
        Row("pixel as it stands", "method", ERROR, found["same"], "1 channel"),
        Row("the same latents in bfloat16", "equal-cost", ERROR, found["half"], "4 channels, half the bytes"),
        Row("averaged blocks", "natural", ERROR, found["mean"], "1 channel's worth"),
        Row("stated error", "reference", ERROR, [codec.error]),
        Row("pixel, folded and normalised", "method", "standard deviation of held-out latents (1)", found["size"]),
    ]
    exact = max(found["same"]) == 0 and max(found["fold"]) <= codec.error
    others = min(found["half"]) > codec.error and min(found["mean"]) > codec.error
    unit = all(abs(s - 1) < 0.05 for s in found["size"])
    return Evidence(CLAIM, rows, verdict(exact and others and unit, exact))


def _worst(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
