"""Train the embedded text-to-image model on Noto emoji: RGBA, prompts through MiniLM, resumable.

ornstein fetch emoji && ornstein train train_emoji --set size=32
Where there is a GPU: --set size=64 --set width=512 --set depth=12 --set patch=4
"""

from __future__ import annotations

from typing import Any

import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.model import create
from ornstein.train import Settings, Training

__all__ = ["PROMPTS", "train_emoji"]

PROMPTS = ("red apple", "sleeping cat face", "smiling face with sunglasses", "birthday cake", "rocket", "snowman", "hot pepper",
           "blue heart", "green book", "fox", "sunflower", "soccer ball", "pizza", "ghost", "guitar", "bicycle")  # fmt: skip


def train_emoji(size: int = 32, width: int = 256, depth: int = 8, heads: int = 4, patch: int = 4, root: str = "",
                settings: Settings | None = None) -> Training:  # fmt: skip
    """size: pixels, 32 or 64; root: folder of the fetched art, the default cache where empty."""
    settings = settings or Settings(steps=7000, batch=48, lr=1e-3, warmup=300, ema=0.998, decay=0.03, every=500)
    if size % patch:
        raise OrnsteinError(f"{size} px do not divide into patches of {patch}", "Choose another patch.")
    torch.manual_seed(settings.seed)
    model = create({
        "backbone": {"name": "dit", "channels": 4, "patch": patch, "width": width, "depth": depth, "heads": heads,
                     "text_dim": 384, "shared": True},
        "process": {"name": "flow"}, "predicts": "x0", "codec": {"name": "pixel"}, "encoder": {"name": "minilm"},
        "shape": [4, size, size], "defaults": {"solver": "dpmpp2m", "steps": 30, "guidance": ["cfg:scale=3.0"]},
        "about": {"data": "Noto Emoji, Copyright Google, Apache-2.0", "licence": "Apache-2.0",
                  "command": f"ornstein train train_emoji --set size={size}"},
    }, "emoji")  # fmt: skip
    where = {"root": root} if root else {}
    train, test = (catalog.build("data", "emoji", size=size, split=s, variants=s == "train", **where) for s in ("train", "test"))
    images, text = (train.images() * 127.5 + 127.5).round().to(torch.uint8), _encoded(model, train)
    held_out = {"x0": test.images()[:128], "cond": {k: v[:128] for k, v in _encoded(model, test).items()}}
    tones = _weights(train)

    def data(indices: torch.Tensor) -> dict[str, Any]:
        rows = tones[indices]
        return {"x0": images[rows].float().div_(127.5).sub_(1), "cond": {k: v[rows] for k, v in text.items()}}

    loss = catalog.build("losses", "denoising:target=x0,weight=velocity,constant=0.05,time='logit-normal',drop_condition=0.1")
    return Training(model, loss, data, len(tones), held_out, PROMPTS, settings)


def _weights(data: Any) -> torch.Tensor:
    """Rows to draw from: each picture as often as it takes for a base with skin tones to count three times a plain one."""
    counts: dict[str, int] = {}
    for base in data.bases:
        counts[base] = counts.get(base, 0) + 1
    rows = [i for i, base in enumerate(data.bases) for _ in range(max(1, round(12 * min(3, counts[base]) / counts[base])))]
    return torch.tensor(rows)


def _encoded(model: Any, data: Any, batch: int = 256) -> dict[str, torch.Tensor]:
    captions = data.captions
    parts = [model.encode(captions[i : i + batch]) for i in range(0, len(captions), batch)]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
