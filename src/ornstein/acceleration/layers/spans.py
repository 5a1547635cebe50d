"""Spans of blocks that a sample passes by while its neighbours are computed: which blocks, and arithmetic on rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["carry", "lead", "minus", "pick", "plus", "put", "relative", "trunk"]


def trunk(sites: Sequence[Site], part: str) -> list[Site]:
    """All blocks of the stages of more than two blocks where there are such; short refiners stay computed. [] where a
    network has only one block."""
    if any(s.grain == "stage" for s in sites):
        raise OrnsteinError(f"{part} does not fit a U-Net: its stages change the resolution and hand on skips",
                            "Use deepcache.")  # fmt: skip
    blocks = [s for s in sites if s.grain == "block"]
    large = [s for s in blocks if s.count > 2] or blocks
    return large if len(large) > 1 else []


def lead(streams: Streams) -> Tensor:
    """The first stream that is a tensor: the image's tokens."""
    for value in streams.values():
        if isinstance(value, Tensor):
            return value
    raise OrnsteinError(f"no tensor among the streams {', '.join(streams)}", "Leave this site out.")


def carry(site: Site, begins: bool, streams: Streams, run: Call, memory: dict, fill: Callable[[Site, Streams], Streams],
          learn: Callable[[Site, Streams, Streams, Tensor | None], None]) -> Streams:  # fmt: skip
    """One block of a span. memory['rows']: None computes all rows, else these; the others get fill(site, streams), what
    leaves the last block of the stage, where the span begins, and pass on as they are. learn(site, begin, end, rows) is
    told what was computed from the beginning to the end, of these rows alone."""
    rows = memory["rows"]
    if begins:
        memory["begin"] = streams
    if rows is None:
        out = run(streams)
    else:
        out = fill(site, streams) if begins else streams
        out = put(out, rows, run(streams, rows)) if len(rows) else out
    if site.index == site.count - 1 and "begin" in memory:
        begin = memory.pop("begin")
        if rows is None:
            learn(site, begin, out, None)
        elif len(rows):
            learn(site, pick(begin, rows), pick(out, rows), rows)
    return out


def relative(now: Tensor, before: Tensor) -> Tensor:
    """mean|now - before| / mean|before| of each sample, float32 [B]."""
    axes = tuple(range(1, now.ndim))
    return (now - before).abs().float().mean(axes) / before.abs().float().mean(axes)


def plus(streams: Streams, residual: Streams) -> Streams:
    """Streams without a residual stay."""
    return {k: v if residual.get(k) is None or v is None else v + residual[k] for k, v in streams.items()}


def minus(end: Streams, begin: Streams, site: Site) -> Streams:
    """end - begin, of the streams that both have."""
    for k, v in end.items():
        if isinstance(v, Tensor) and k in begin and v.shape != begin[k].shape:
            raise OrnsteinError(f"the stage that ends at '{site.name}' changes the shape of {k}, so it has no residual",
                                "Use taylorseer with its grain 'branch'.")  # fmt: skip
    return {k: v - begin[k] for k, v in end.items() if isinstance(v, Tensor) and isinstance(begin.get(k), Tensor)}


def pick(streams: Streams, rows: Tensor) -> Streams:
    return {k: v[rows] if isinstance(v, Tensor) else v for k, v in streams.items()}


def put(all_rows: Streams, rows: Tensor, part: Streams) -> Streams:
    """`all_rows` with `part` at `rows`; None where the part says None."""
    return {k: _put(all_rows[k], rows, v) for k, v in part.items()}


def _put(whole: Any, rows: Tensor, part: Any) -> Any:
    return whole.index_copy(0, rows, part.to(whole.dtype)) if isinstance(part, Tensor) else part
