"""Train a tiny model that is asked for a number of discs, 1 to 9, in 24 pixels: what the counting metric is tried on.

ornstein train scenes --set steps=1500
"""

from __future__ import annotations

from typing import Any

import torch

from ornstein.core import catalog
from ornstein.losses.layers.times import LogitNormal
from ornstein.metrics.layers.scenes import scenes
from ornstein.model import create
from ornstein.train import Settings, Training

__all__ = ["train_scenes"]

SIDE, MOST = 24, 9
USUAL = Settings(steps=1500, batch=64, lr=2e-3, warmup=100, ema=0.99, dtype="float32", every=500)


def train_scenes(width: int = 48, depth: int = 4, pictures: int = 9000, settings: Settings = USUAL) -> Training:
    """width, depth: of the DiT with patches of 4 pixels; pictures: composed scenes, as many of each number.

    Linear flow, velocity prediction, a tenth of the numbers dropped for guidance.
    """
    torch.manual_seed(settings.seed)
    model = create({
        "backbone": {"name": "dit", "channels": 1, "patch": 4, "width": width, "depth": depth, "heads": 4, "classes": MOST,
                     "shared": True},
        "process": {"name": "flow"}, "predicts": "velocity", "codec": {"name": "pixel"},
        "encoder": {"name": "classes", "classes": MOST, "names": [str(n) for n in range(1, MOST + 1)]}, "shape": [1, SIDE, SIDE],
        "defaults": {"steps": 20, "guidance": []},
        "about": {"data": "composed scenes of discs (metrics/layers/scenes)", "licence": "Apache-2.0",
                  "command": "ornstein train scenes"},
    }, "scenes")  # fmt: skip
    counts = torch.arange(pictures) % MOST + 1
    images, tried = scenes(counts, SIDE, seed=1), scenes(counts[:450], SIDE, seed=2)
    held_out = {"x0": tried, "cond": {"label": counts[:450] - 1}}

    def data(indices: torch.Tensor) -> dict[str, Any]:
        return {"x0": images[indices], "cond": {"label": counts[indices] - 1}}

    loss = catalog.build("losses", "denoising:drop_condition=0.1", time=LogitNormal(0.0, 1.2))
    return Training(model, loss, data, len(images), held_out, [str(n) for n in range(1, MOST + 1)] * 4, settings)
