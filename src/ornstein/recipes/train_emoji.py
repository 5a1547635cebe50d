"""Train the embedded text-to-image model on Noto emoji: RGBA, prompts through MiniLM or bytes, resumable.

ornstein fetch emoji && ornstein train emoji --set size=32
Without any download: --set root=subset --set encoder=bytes
Where there is a GPU: --set size=64 --set width=512 --set depth=12 --set patch=4
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.model import Model, create
from ornstein.train import Settings, Training

__all__ = ["train_emoji", "PROMPTS"]

PROMPTS = ("red apple", "sleeping cat face", "smiling face with sunglasses", "birthday cake", "rocket", "snowman",
           "hot pepper", "blue heart", "green book", "fox", "sunflower", "soccer ball", "pizza", "ghost", "guitar",
           "bicycle")  # fmt: skip
ENCODERS = {"minilm": ({"name": "minilm"}, 384), "bytes": ({"name": "bytes", "dim": 128}, 128)}  # and width of a token
USUAL = Settings(steps=7000, batch=48, lr=1e-3, warmup=300, ema=0.998, decay=0.03, every=500)


def train_emoji(size: int = 32, width: int = 256, depth: int = 8, heads: int = 4, patch: int = 4, root: str = "",
                encoder: str = "minilm", settings: Settings = USUAL) -> Training:  # fmt: skip
    """size: pixels, 32 or 64; root: folder of the fetched art, the default cache where empty, 'subset' for the pictures
    that ship (32 px); encoder: 'minilm' (frozen), or 'bytes', which needs no package and trains with the network."""
    if size % patch:
        raise OrnsteinError(f"{size} px do not divide into patches of {patch}", "Choose another patch.")
    if encoder not in ENCODERS:
        raise unknown("text encoder", encoder, ENCODERS)
    described, text_dim = ENCODERS[encoder]
    command = f"ornstein train emoji --set size={size} --set encoder={encoder}"
    torch.manual_seed(settings.seed)
    model = create({
        "backbone": {"name": "dit", "channels": 4, "patch": patch, "width": width, "depth": depth, "heads": heads,
                     "text_dim": text_dim, "shared": True},
        "process": {"name": "flow"}, "predicts": "x0", "codec": {"name": "pixel"}, "encoder": described,
        "shape": [4, size, size], "defaults": {"solver": "dpmpp2m", "steps": 20, "guidance": ["cfg:scale=3.0"]},
        "about": {"data": "Noto Emoji, Copyright Google, Apache-2.0", "licence": "Apache-2.0", "command": command},
    }, "emoji")  # fmt: skip
    where = {"root": None} if root == "subset" else {"root": root} if root else {}
    train, test = (catalog.build("data", "emoji", size=size, split=s, variants=s == "train", **where)
                   for s in ("train", "test"))  # fmt: skip
    images = (train.images() * 127.5 + 127.5).round().to(torch.uint8)
    text, rows = _text(model, train.captions, encoder), _rows(train.bases)
    held_out = {"x0": test.images()[:128], **_chosen(_text(model, test.captions[:128], encoder), slice(None))}

    def data(indices: Tensor) -> dict[str, Any]:
        some = rows[indices]
        return {"x0": images[some].float().div_(127.5).sub_(1), **_chosen(text, some)}

    loss = "denoising:target=x0,weight=velocity,constant=0.05,time='logit-normal',drop_condition=0.1"
    loss = catalog.build("losses", loss)
    return Training(model, loss, data, len(rows), held_out, PROMPTS, settings)


def _rows(bases: list[str]) -> Tensor:
    """Rows to draw from: a picture as often as it takes for a base with skin tones to count three times a plain one."""
    counts: dict[str, int] = {}
    for base in bases:
        counts[base] = counts.get(base, 0) + 1
    often = [max(1, round(12 * min(3, counts[base]) / counts[base])) for base in bases]
    return torch.arange(len(bases)).repeat_interleave(torch.tensor(often))


def _text(model: Model, captions: list[str], encoder: str, batch: int = 256) -> Any:
    """Captions as a frozen encoder's condition, {name: [N, ...]}; as they are where the encoder trains."""
    if encoder == "bytes":
        return captions
    try:
        parts = [model.encode(captions[i : i + batch]) for i in range(0, len(captions), batch)]
    except OrnsteinError as error:
        raise OrnsteinError(error.what, f"{error.remedy} Or train without it: --set encoder=bytes.") from error
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def _chosen(text: Any, rows: Any) -> dict[str, Any]:
    """The rows of what `_text` gave, as an entry of a batch."""
    if isinstance(text, dict):
        return {"cond": {k: v[rows] for k, v in text.items()}}
    return {"prompts": text[rows] if isinstance(rows, slice) else [text[i] for i in rows.tolist()]}
