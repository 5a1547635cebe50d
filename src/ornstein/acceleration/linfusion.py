"""LinFusion: softmax attention replaced by a normalised linear one with a small learned map of queries and keys.

LinFusion: 1 GPU, 1 Minute, 16K Image, Songhua Liu, Weihao Yu, Zhenxiong Tan, Xinchao Wang, 2024, arXiv:2409.02097.

    out_i = phi(q_i) [1/n sum_j phi(k_j)^T v_j] / (phi(q_i) . 1/n sum_j phi(k_j) + eps),   phi = elu + 1,
    q <- q + g_q(q),  k <- k + g_k(k),   g = Linear - LayerNorm - LeakyReLU - Linear,

non-causal, with the mean over keys so that the scale of the answer does not depend on n. Costs 2 n d^2 multiplications per
head instead of 2 n^2 d, and one d x d state; the maps cost 4 n D^2 per layer. Untrained (g = 0) it is a blunt kernel:
the projections and g are trained against the frozen host with `distil`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.distil import Recipe, distil
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.windows import plain
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Run, Streams, attach, running
from ornstein.core.sites import Site

__all__ = ["LinFusion", "Recipe", "distil", "fresh", "linear"]

EPS = 1e-4  # the paper's code


@dataclass(frozen=True, eq=False)
class LinFusion:
    """For self-attention without a mask, of any number of tokens in any order. Nothing is stored between evaluations."""

    share: float = 1.0  # of the layers, the last ones first (the paper: all self-attentions); 0: off
    maps: Mapping[str, Tensor] | str | Path | None = field(default=None, repr=False)  # of `fresh`, or a saved artefact
    normalise: bool = True  # the denominator; False: the plain sum over keys, which grows with n, for comparison
    warmup: int = 0  # evaluations that stay full, anew after a change of shape; for use without training
    roles: tuple[str, ...] = ("attention",)  # of the attentions to make linear
    effects: ClassVar[Effects] = Effects.of(replaces="attention")

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.warmup < 0:
            raise OrnsteinError(f"LinFusion(share={self.share}, warmup={self.warmup})", "share is 0 to 1, warmup not negative.")
        if isinstance(self.maps, (str, Path)):
            object.__setattr__(self, "maps", Artefact.load(self.maps, "linfusion").arrays)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        found = [s for s in sites if s.grain == "attention" and s.role in self.roles]
        return found[-math.ceil(self.share * len(found)) :]

    def start(self) -> dict[str, Any]:
        return {"calls": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if not self.share:
            return run(streams)
        plain("LinFusion", site, streams, run)
        q, k, v = (streams[n] for n in "qkv")
        shape, calls = memory["calls"].get(site.name, (None, 0))
        calls = calls if shape == tuple(q.shape) else 0
        memory["calls"][site.name] = tuple(q.shape), calls + 1
        if calls < self.warmup:
            note(run, clock, "linfusion", (), {"attentions": 1})
            return run(streams)
        if self.maps:
            q, k = self._mapped(site, q, "q"), self._mapped(site, k, "k")
        cost = clock.share * min(1.0, q.shape[3] / q.shape[2])  # d / n of the pairs' multiplications
        run.run.record.computed(site, replace(clock, share=cost))
        note(run, clock, "linfusion", (), {"attentions": 1, "attentions_linear": 1})
        return {"out": linear(q, k, v, self.normalise)}

    def _mapped(self, site: Site, x: Tensor, kind: str) -> Tensor:
        """x + g(x), all heads together."""
        try:
            w1, b1, w2, b2 = (self.maps[f"{site.name}/{kind}.{part}"].to(x) for part in PARTS)
        except KeyError:
            raise OrnsteinError(f"the maps of LinFusion have none for '{site.name}'",
                                "Make them of this network, with fresh() and distil().") from None  # fmt: skip
        flat = x.transpose(1, 2).flatten(2)
        hidden = F.linear(flat, w1, b1)
        hidden = F.leaky_relu(F.layer_norm(hidden, hidden.shape[-1:]), 0.01)
        return (flat + F.linear(hidden, w2, b2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)


PARTS = ("in.weight", "in.bias", "out.weight", "out.bias")


def linear(q: Tensor, k: Tensor, v: Tensor, normalise: bool = True) -> Tensor:
    """[B, H, N, d]: phi(q) (sum phi(k)^T v) over its normaliser; sums in at least float32."""
    kind = torch.promote_types(v.dtype, torch.float32)
    q, k, values = F.elu(q.to(kind)) + 1, F.elu(k.to(kind)) + 1, v.to(kind)
    n = k.shape[2] if normalise else 1
    out = q @ (k.mT @ values / n)
    return (out / (q @ (k.sum(2) / n)[..., None] + EPS) if normalise else out).to(v.dtype)


def fresh(denoiser: Denoiser, x: Tensor, t: Tensor | float, cond: Any = None, hidden: int = 0, seed: int = 0,
          roles: tuple[str, ...] = ("attention",)) -> dict[str, Tensor]:  # fmt: skip
    """Untrained maps for every attention that one call of the denoiser meets: g = 0, as its last layer is zero.
    hidden: width of g, 0 is the layer's own. Save with Artefact('linfusion', maps, ...)."""
    probe, source = _Probe(roles), torch.Generator().manual_seed(seed)
    detach = attach(denoiser.backbone, probe)
    try:
        with torch.no_grad(), running(Run()):
            denoiser(x, t, cond, Clock(t=t, ids=tuple(range(len(x)))))
    finally:
        detach()
    made = {}
    for name, width in probe.widths.items():
        m = hidden or width
        first = torch.randn(m, width, generator=source) * width**-0.5
        made |= {f"{name}/{kind}.{part}": value.clone() for kind in "qk" for part, value in
                 zip(PARTS, (first, torch.zeros(m), torch.zeros(width, m), torch.zeros(width)))}  # fmt: skip
    return made


class _Probe:
    """Notes how wide the queries of each attention are, all heads together."""

    effects: ClassVar[Effects] = Effects()

    def __init__(self, roles: tuple[str, ...]) -> None:
        self.roles, self.widths = roles, {}

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return LinFusion(roles=self.roles).select(sites)

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        self.widths[site.name] = streams["q"].shape[1] * streams["q"].shape[3]
        return run(streams)
