"""Train the embedded text-to-image model on Noto emoji: RGBA, prompts through MiniLM or bytes, resumable.

ornstein fetch emoji && ornstein train emoji --set size=32
Without any download: --set root=subset --set encoder=bytes
Where there is a GPU: --set size=64 --set width=320 --set depth=12 --set heads=5 --set batch=256 --set steps=60000
The encoded captions are kept beside the pictures (36 MB, half precision), so that a folder with these two files is all that
another machine needs: emoji-64.npz (11 MB) and captions-*.safetensors. Run it again to go on from the last checkpoint.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.record import write_atomic
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
        "shape": [4, size, size], "defaults": {"steps": 20, "guidance": ["cfg:scale=3.0"]},
        "about": {"data": "Noto Emoji, Copyright Google, Apache-2.0", "licence": "Apache-2.0", "command": command},
    }, "emoji")  # fmt: skip
    where = {"root": None} if root == "subset" else {"root": root} if root else {}
    train, test = (catalog.build("data", "emoji", size=size, split=s, variants=s == "train", **where)
                   for s in ("train", "test"))  # fmt: skip
    images = (train.images() * 127.5 + 127.5).round().to(torch.uint8)
    text, rows = _text(model, train, encoder), _rows(train.bases)
    held_out = {"x0": test.images(), **_chosen(_text(model, test, encoder), slice(None))}

    def data(indices: Tensor) -> dict[str, Any]:
        some = rows[indices]
        return {"x0": images[some].float().div_(127.5).sub_(1), **_chosen(text, some)}

    loss = "denoising:target=x0,weight=velocity,constant=0.05,time='logit-normal',drop_condition=0.1"
    loss = catalog.build("losses", loss)
    return Training(model, loss, data, len(rows), held_out, _drawable(model), settings)


def _rows(bases: list[str]) -> Tensor:
    """Rows to draw from: a picture as often as it takes for a base with skin tones to count three times a plain one."""
    counts: dict[str, int] = {}
    for base in bases:
        counts[base] = counts.get(base, 0) + 1
    often = [max(1, round(12 * min(3, counts[base]) / counts[base])) for base in bases]
    return torch.arange(len(bases)).repeat_interleave(torch.tensor(often))


def _text(model: Model, data: Any, encoder: str, batch: int = 256) -> Any:
    """Captions as a frozen encoder's condition, {name: [N, ...]}, read from beside the pictures or kept there; as they
    are where the encoder trains."""
    captions = data.captions
    if encoder == "bytes":
        return captions
    mark = hashlib.sha256("\n".join(captions).encode()).hexdigest()[:12]
    kept = Path(data.root).expanduser() / f"captions-{encoder}-{mark}.safetensors" if data.root is not None else None
    if kept is not None and kept.is_file():
        return {k: v.float() if v.is_floating_point() else v for k, v in load_file(kept).items()}
    try:
        parts = [model.encode(captions[i : i + batch]) for i in range(0, len(captions), batch)]
    except OrnsteinError as error:
        raise OrnsteinError(error.what, f"{error.remedy} Or train without it: --set encoder=bytes.") from error
    found = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    found = {k: v.half() if v.is_floating_point() else v for k, v in found.items()}  # as it will be read again
    if kept is not None and kept.parent.is_dir():
        write_atomic(kept, to_bytes(found))
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def _drawable(model: Model) -> tuple[str, ...]:
    """The prompts to draw on the way, or none where the text encoder is not installed."""
    try:
        model.encode(PROMPTS[:1])
    except OrnsteinError as error:
        warnings.warn(f"no pictures on the way: {error}", stacklevel=3)
        return ()
    return PROMPTS


def _chosen(text: Any, rows: Any) -> dict[str, Any]:
    """The rows of what `_text` gave, as an entry of a batch."""
    if isinstance(text, dict):
        return {"cond": {k: v[rows] for k, v in text.items()}}
    return {"prompts": text[rows] if isinstance(rows, slice) else [text[i] for i in rows.tolist()]}
