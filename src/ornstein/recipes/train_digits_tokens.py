"""Train a class-conditional model of the 8x8 digits as tokens: masked diffusion of five grey levels, in minutes on a core.

ornstein train digits_tokens --set steps=3000
"""

from __future__ import annotations

from typing import Any

import torch

from ornstein.core import catalog
from ornstein.model import create
from ornstein.train import Settings, Training

__all__ = ["train_digits_tokens"]

USUAL = Settings(steps=6000, batch=96, lr=3e-3, warmup=100, ema=0.995, dtype="float32", every=1500)


def train_digits_tokens(levels: int = 5, width: int = 40, depth: int = 4, settings: Settings = USUAL) -> Training:
    """levels: of grey; width, depth: of the TokenDiT, two heads, patches of 2 x 2. A tenth of the labels is dropped."""
    torch.manual_seed(settings.seed)
    model = create({
        "backbone": {"name": "token_dit", "tokens": levels, "patch": 2, "width": width, "depth": depth, "heads": 2,
                     "classes": 10, "shared": True},
        "process": {"name": "masked", "tokens": levels}, "predicts": "logits", "codec": {"name": "tokens", "levels": levels},
        "encoder": {"name": "classes", "names": [str(d) for d in range(10)]}, "shape": [1, 8, 8],
        "defaults": {"steps": 64, "solver": "unmask", "grid": "uniform", "guidance": []},
        "about": {"data": "UCI optical digits, 8x8, as in scikit-learn (CC BY 4.0)", "licence": "Apache-2.0",
                  "command": "ornstein train digits_tokens"},
    }, "digits-tokens")  # fmt: skip
    train, test = (catalog.build("data", "digits", split=split) for split in ("train", "test"))
    tokens, labels = model.codec.encode(train.images()), train.labels

    def data(indices: torch.Tensor) -> dict[str, Any]:
        return {"x0": tokens[indices], "cond": {"label": labels[indices]}}

    held_out = {"x0": model.codec.encode(test.images()), "cond": {"label": test.labels}}
    loss = catalog.build("losses", "masked:drop_condition=0.1")
    return Training(model, loss, data, len(tokens), held_out, [str(d) for d in range(10)] * 4, settings)
