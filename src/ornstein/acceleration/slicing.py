"""Slicing: run a block on a few samples, tokens or queries at a time, so that what it needs in between stays small.

Fast and Memory-Efficient Video Diffusion Using Streamlined Inference, Zhan, Wu, Gong, Meng, Kong, Yang, Yuan, Zhao, Niu,
Wang, 2024, arXiv:2411.01171: a feature slicer cuts the input of operators along an axis that they do not mix, and
operators that share such an axis are grouped into one loop over slices. Here: whole blocks over samples (frames that are
folded into the batch are samples), the mlp over tokens, softmax attention over queries, O_i = softmax(Q_i K^T) V. The
answer is that of the plain network up to rounding; FLOPs stay, small slices cost calls. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Slicing"]


@dataclass(frozen=True)
class Slicing:
    """Sizes of slices; an input that is no larger is computed at once. 0: that axis is never cut."""

    rows: int = 1  # samples of a slice of a whole block or stage
    tokens: int = 1024  # tokens of a slice of an mlp; for tokens [B, N, D] alone
    queries: int = 1024  # of a slice of attention; matters where its kernel keeps all scores
    effects: Effects = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.rows, self.tokens, self.queries) < 0:
            raise OrnsteinError(f"Slicing(rows={self.rows}, tokens={self.tokens}, queries={self.queries})", "None is negative.")
        # who computes less decides before the rest is cut; 'rows' are also of those whose memory spans blocks and their inside
        found = Effects.of("evaluation attention tokens weights", "rows" if self.rows else "")
        object.__setattr__(self, "effects", found)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain in ("block", "stage", "attention") or (s.grain, s.role) == ("branch", "mlp")]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        size, axis, total = self._cut(site, streams, run)
        if not size or total <= size:
            note(run, clock, "slicing", None, {"slices": 1})
            return run(streams)
        note(run, clock, "slicing", None, {"slices": -(-total // size)})
        if axis == 0:
            batch = torch.arange(total, device=lead(streams).device)
            return _joined([(k, lambda k=k: run(streams, batch[k : k + size])) for k in range(0, total, size)], total, 0)
        pieces = [(k, _piece(streams, k, min(size, total - k), axis, run)) for k in range(0, total, size)]
        out = _joined(pieces, total, axis)
        run.done = 1.0
        return out

    def _cut(self, site: Site, streams: Streams, run: Call) -> tuple[int, int, int]:
        """(size of slices or 0, axis, length) at this site."""
        x = lead(streams)
        if site.grain in ("block", "stage"):
            return self.rows, 0, len(x)
        if site.grain == "attention":  # a causal mask counts queries from the first
            return 0 if run.bound.get("is_causal") else self.queries, 2, x.shape[2]
        return self.tokens if x.ndim == 3 else 0, 1, x.shape[1]


def _piece(streams: Streams, begin: int, size: int, axis: int, run: Call) -> Callable[[], Streams]:
    """Computes tokens or queries [begin, begin + size): of an mlp's input, or of the queries and the rows of a mask."""
    x, mask, part = lead(streams), streams.get("mask"), dict(streams)
    name = next(k for k, v in streams.items() if isinstance(v, Tensor))
    share = replace(run.clock, share=run.clock.share * size / x.shape[axis])
    call = Call(run.site, share, run.run, run.plugins, run.bound, run.inner, run.network, run.depth)
    part[name] = x.narrow(axis, begin, size)
    if isinstance(mask, Tensor) and mask.ndim > 1 and mask.shape[-2] == x.shape[axis] > 1:
        part["mask"] = mask.narrow(-2, begin, size)
    return lambda: call(part)


def _joined(pieces: Sequence[tuple[int, Callable[[], Streams]]], total: int, axis: int) -> Streams:
    """The answers in one, written into their place as they come; where gradients are wanted, joined at the end."""
    if torch.is_grad_enabled():
        return _tree([make() for _, make in pieces], lambda parts: torch.cat(parts, axis))
    out: Any = None
    for begin, make in pieces:
        said = make()
        if out is None:
            out = _tree([said], lambda v: v[0].new_empty(*v[0].shape[:axis], total, *v[0].shape[axis + 1 :]))
        _tree([out, said], lambda v, k=begin: v[0].narrow(axis, k, v[1].shape[axis]).copy_(v[1]))
        del said
    return out


def _tree(parts: Sequence[Any], join: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """Nests of one form, joined tensor by tensor."""
    if isinstance(parts[0], dict):
        return {k: _tree([p[k] for p in parts], join) for k in parts[0]}
    if isinstance(parts[0], (list, tuple)):
        return type(parts[0])(_tree(list(v), join) for v in zip(*parts))
    return join(parts) if isinstance(parts[0], Tensor) else parts[0]
