"""An adapter on disk: one safetensors file with its tensors, its settings, and the fingerprint of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.record import write_atomic

__all__ = ["fill", "read", "write"]


def write(path: str | Path, kind: str, settings: dict[str, Any], mark: str, tensors: Mapping[str, Tensor]) -> Path:
    """Atomically. kind: 'lora'; mark: the model's fingerprint."""
    kept = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return write_atomic(path, save(kept, {"kind": kind, "settings": json.dumps(settings), "fingerprint": mark}))


def read(path: str | Path, kind: str, mark: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(settings, tensors). mark: the fingerprint that the file must carry, None for any. Else OrnsteinError."""
    try:
        with safe_open(path, "pt") as file:
            about, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
        settings = json.loads(about["settings"]) if about.get("kind") == kind else None
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        what = f"{path} cannot be read as an adapter ({error})"
        raise OrnsteinError(what, "Give a file that save() wrote.") from error
    if settings is None:
        raise OrnsteinError(f"{path} holds no {kind} adapter of ornstein", "Give a file that save() wrote.")
    if mark is not None and about.get("fingerprint") != mark:
        raise OrnsteinError(f"{path} was trained on another model ({about.get('fingerprint')}, this one is {mark})",
                            "Load that model, or pass any_model=True for other weights of its shape.")  # fmt: skip
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}, tensors


def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy every tensor into its namesake. Missing, foreign or of another shape: error, and nothing is copied."""
    wrong = [k for k in sorted(own.keys() | tensors.keys())
             if k not in own or k not in tensors or own[k].shape != tensors[k].shape]  # fmt: skip
    if wrong:
        raise OrnsteinError(f"{path} does not fit this model at {len(wrong)} tensors, such as '{wrong[0]}'",
                            "Load the model that it was trained on.")  # fmt: skip
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[key])
