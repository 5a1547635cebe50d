"""Arithmetic on the streams of a site: what a span of blocks adds, and adding it again."""

from __future__ import annotations

from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Streams
from ornstein.core.sites import Site

__all__ = ["lead", "minus", "plus"]


def lead(streams: Streams) -> Tensor:
    """The first tensor of the streams: its rows are the samples."""
    return next(v for v in streams.values() if isinstance(v, Tensor))


def plus(streams: Streams, offset: Streams) -> Streams:
    """Streams with their offsets added; those without one stay."""
    return {k: v if offset.get(k) is None or v is None else v + offset[k] for k, v in streams.items()}


def minus(end: Streams, begin: Streams, site: Site) -> Streams:
    """end - begin of every stream that both have."""
    for k, v in end.items():
        if isinstance(v, Tensor) and isinstance(begin.get(k), Tensor) and v.shape != begin[k].shape:
            raise OrnsteinError(f"the blocks that end at '{site.name}' change the shape of {k}, so they have no offset",
                                "Use taylorseer or broadcast.")  # fmt: skip
    return {k: v - begin[k] for k, v in end.items() if isinstance(v, Tensor) and isinstance(begin.get(k), Tensor)}
