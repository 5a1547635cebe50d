"""Where and how what a cache keeps is stored: as it is, in half precision, or in the host's memory.

Half is float16 with one power of two per sample where its largest number needs it, so that nothing overflows and no sample
feels its neighbours: each number is off by 2^-11 of itself, or by 2^-25 of that power where it is tiny.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.errors import unknown

__all__ = ["STORES", "Packed", "check_store", "pack", "unpack"]

STORES = ("plain", "half", "host")


@dataclass(frozen=True)
class Packed:
    """A tensor [B, ...] put away. value: as it is stored; scale: [B, 1, ...] to multiply with, or None; dtype and device:
    those that it comes back with."""

    value: Tensor
    scale: Tensor | None
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        return len(self.value)

    @property
    def shape(self) -> torch.Size:
        return self.value.shape


def check_store(part: str, store: str) -> None:
    if store not in STORES:
        raise unknown(f"store of {part}", store, STORES)


def pack(tree: Any, store: str) -> Any:
    """A nest of dicts, lists and tuples with its floating tensors put away; 'plain' hands back the nest itself."""
    if store == "plain":
        return tree
    if isinstance(tree, dict):
        return {k: pack(v, store) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(pack(v, store) for v in tree)
    return _away(tree, store) if isinstance(tree, Tensor) and tree.is_floating_point() else tree


def unpack(tree: Any) -> Any:
    """The nest as it was; what was not packed stays itself."""
    if isinstance(tree, dict):
        return {k: unpack(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(unpack(v) for v in tree)
    if not isinstance(tree, Packed):
        return tree
    value = tree.value.to(tree.device, tree.dtype)
    return value if tree.scale is None else value * tree.scale


def _away(x: Tensor, store: str) -> Packed:
    if store == "host":
        return Packed(x.to("cpu"), None, x.dtype, x.device)
    if x.element_size() <= 2:  # as small already
        return Packed(x, None, x.dtype, x.device)
    most = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x.abs()
    scale = torch.exp2((most / 32768).clamp_min(1).log2().ceil())
    return Packed((x / scale).half(), scale, x.dtype, x.device)
