"""Train a class-conditional model of the 8x8 digits, in minutes on two cores: DiT or U-Net, under a million weights.

ornstein train digits --set backbone=unet --set steps=2000
"""

from __future__ import annotations

from typing import Any

import torch

from ornstein.core import catalog
from ornstein.core.errors import unknown
from ornstein.losses.layers.times import LogitNormal
from ornstein.model import create
from ornstein.train import Settings, Training

__all__ = ["train_digits"]

BACKBONES: dict[str, dict[str, Any]] = {
    "dit": {"name": "dit", "channels": 1, "patch": 2, "width": 96, "depth": 6, "heads": 4, "classes": 10,
            "shared": True},
    "unet": {"name": "unet", "channels": 1, "width": 32, "multipliers": [1, 2], "attention_levels": [1], "classes": 10},
}  # fmt: skip
USUAL = Settings(steps=6000, batch=128, lr=1e-3, warmup=200, ema=0.999, dtype="float32", every=1000)


def train_digits(backbone: str = "dit", width: int = 0, depth: int = 0, settings: Settings = USUAL) -> Training:
    """backbone: 'dit' or 'unet'; width, depth (of the DiT): other than the usual ones.

    Linear flow, velocity prediction, a tenth of the labels dropped for guidance.
    """
    if backbone not in BACKBONES:
        raise unknown("digits backbone", backbone, BACKBONES)
    chosen = {k: v for k, v in (("width", width), ("depth", depth)) if v}
    torch.manual_seed(settings.seed)
    model = create({
        "backbone": BACKBONES[backbone] | chosen, "process": {"name": "flow"}, "predicts": "velocity",
        "codec": {"name": "pixel"}, "encoder": {"name": "classes", "names": [str(d) for d in range(10)]},
        "shape": [1, 8, 8], "defaults": {"steps": 20, "guidance": []},
        "about": {"data": "UCI optical digits, 8x8, as in scikit-learn (CC BY 4.0)", "licence": "Apache-2.0",
                  "command": f"ornstein train digits --set backbone={backbone}"},
    }, f"digits-{backbone}")  # fmt: skip
    train, test = (catalog.build("data", "digits", split=split) for split in ("train", "test"))
    images, labels = train.images(), train.labels
    held_out = {"x0": test.images(), "cond": {"label": test.labels}}

    def data(indices: torch.Tensor) -> dict[str, Any]:
        return {"x0": images[indices], "cond": {"label": labels[indices]}}

    loss = catalog.build("losses", "denoising:drop_condition=0.1", time=LogitNormal(0.0, 1.2))
    return Training(model, loss, data, len(images), held_out, [str(d) for d in range(10)] * 4, settings)
