"""One network made worse at chosen places, for the calls that ask for it and for no others: a plugin of the seam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Asking", "Perturb"]

KINDS = ("identity", "blur", "skip")
_ASKING: ContextVar[Asking | None] = ContextVar("ornstein_perturbed", default=None)


class Asking:
    """with Asking(plugin) as asking: the network calls inside are perturbed; asking.acted says whether any place was."""

    __slots__ = ("acted", "plugin", "token")

    def __init__(self, plugin: Perturb) -> None:
        self.plugin, self.acted = plugin, False

    def __enter__(self) -> Asking:
        self.token = _ASKING.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _ASKING.reset(self.token)


@dataclass(frozen=True)
class Perturb:
    """Does nothing but inside `Asking` an equal plugin."""

    how: str = "identity"  # self-attention map = identity; 'blur': queries smoothed; 'skip': the block adds nothing
    blocks: tuple[int, ...] = ()  # places among all blocks (stages of a U-Net), 0 first; (): the middle one
    sigma: float = math.inf  # of 'blur', in tokens; inf: every query is the mean of all
    effects: ClassVar[Effects] = Effects()

    def __post_init__(self) -> None:
        if self.how not in KINDS:
            raise unknown("perturbation", self.how, KINDS)
        if not all(isinstance(b, int) and b >= 0 for b in self.blocks):
            raise OrnsteinError(f"blocks={self.blocks!r} are not places", "Write blocks=(2,) or blocks=(2,3).")
        if not self.sigma > 0:
            raise OrnsteinError(f"sigma={self.sigma} is no width of a blur", "Give tokens above 0; inf is the mean.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        if self.how == "skip":
            fit = [s for s in sites if s.grain == "block"]
        else:
            fit = [s for s in sites if s.grain == "attention" and s.role == "attention"]
        if not fit:
            raise OrnsteinError(f"the perturbation '{self.how}' finds no place in this network",
                                "'identity' and 'blur' need self-attention by torch's kernel, 'skip' blocks of equal width "
                                "(no U-Net).")  # fmt: skip
        depths = sorted({s.depth for s in fit})
        wanted = self.blocks or ({s.depth for s in sites if s.role == "mid"} & set(depths)) or {depths[len(depths) // 2]}
        if foreign := sorted(set(wanted) - set(depths)):
            raise OrnsteinError(f"block {foreign[0]} has no place for '{self.how}'",
                                f"Choose among {', '.join(map(str, depths))}.")  # fmt: skip
        return [s for s in fit if s.depth in wanted]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        asking = _ASKING.get()
        if asking is None or asking.plugin != self:
            return run(streams)
        asking.acted = True
        if self.how == "skip":
            return streams
        if run.bound.get("arguments", {}).get("encoder_hidden_states") is not None:
            raise OrnsteinError(f"the attention at '{site.name}' joins text and image, '{self.how}' would perturb both",
                                "Use perturb='skip', or blocks that look at the image alone.")  # fmt: skip
        q, v = streams["q"], streams["v"]
        if q.shape[-2] != v.shape[-2]:
            raise OrnsteinError(f"the attention at '{site.name}' has {q.shape[-2]} queries and {v.shape[-2]} values",
                                "Leave out what merges tokens, or use perturb='skip'.")  # fmt: skip
        if self.how == "identity":  # values may have fewer heads than queries
            return {"out": v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)}
        return run({**streams, "q": _smooth(q, self.sigma)})


def _smooth(q: Tensor, sigma: float) -> Tensor:
    """Queries [B, heads, N, d] under a Gaussian of `sigma` tokens on the square grid of N, weights of sum 1 at the edge."""
    if math.isinf(sigma):
        return q.mean(-2, keepdim=True).expand_as(q)
    side = math.isqrt(q.shape[-2])
    if side * side != q.shape[-2]:
        raise OrnsteinError(f"{q.shape[-2]} tokens are no square, so that a blur of {sigma} tokens is not defined",
                            "Use sigma=inf, which needs no grid.")  # fmt: skip
    weights = _gaussian(side, float(sigma)).to(q)
    square = q.unflatten(-2, (side, side))
    return torch.einsum("ik,jl,...kld->...ijd", weights, weights, square).flatten(-3, -2)


@lru_cache(maxsize=32)
def _gaussian(side: int, sigma: float) -> Tensor:
    place = torch.arange(side, dtype=torch.float64)
    return (-0.5 * ((place[:, None] - place) / sigma).square()).softmax(1)
