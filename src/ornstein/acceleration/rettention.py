"""Re-ttention: attention to a narrow band of keys, set right by what the last full evaluation knew of the rest.

Re-ttention: Ultra Sparse Visual Generation via Attention Statistical Reshape, Ruichen Chen, Keith G. Mills, Liyao
Jiang, Chao Gao, Di Niu, 2025, arXiv:2505.22918. A full evaluation keeps, per head and query i with the band W(i),

    rho_i = sum_{j in W} e^{s_ij} / sum_j e^{s_ij},     R_i = O_i - rho_i softmax_W(s_i) V,

and a sparse one answers O_i = rho_i softmax_W(s_i) V + R_i: the whole old output, corrected by what changed inside of
the band. The output projection is linear, so R before it is the published R after it. A sparse evaluation costs about
(2r + b)/N of the attention with blocks of b queries and r keys to each side; a full one costs one attention with one
key more, from which the sum of the exponentials is read, and the band. rho and R are stored: one output of each
attention and a number per head and query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams, attention_lse
from ornstein.core.sites import Site

__all__ = ["Rettention", "banded"]

DRIFT = 0.04  # what the released code adds to rho at every sparse evaluation


@dataclass(frozen=True)
class Rettention:
    """For self-attention over tokens in raster order; masked or causal attention is refused."""

    width: float = 0.125  # share of the keys in the band, 0 to 1; 0: none, the old output is reused
    interval: int = 5  # one full evaluation in so many; 1: never sparse
    warmup: int = 5  # full evaluations at the start (the paper: 5 of 20)
    reshape: bool = True  # rho; False: the band's softmax as it is, for comparison
    residual: bool = True  # R; False: none, for comparison
    faithful: bool = False  # the released drift: rho + 0.04 per sparse evaluation, at most 1
    roles: tuple[str, ...] = ("attention",)  # of the attentions to make sparse
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation attention tokens")

    def __post_init__(self) -> None:
        if not 0 <= self.width <= 1 or self.interval < 1 or self.warmup < 1:
            raise OrnsteinError(f"Rettention(width={self.width}, interval={self.interval}, warmup={self.warmup})",
                                "width is a share from 0 to 1; interval and warmup are at least 1.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "attention" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        q, k, v = (streams[n] for n in "qkv")
        self._check(site, streams, run)
        if site.name == next(iter(memory), site.name):
            note(run, clock, "rettention", memory, {"evaluations": 1})
        radius, known, shape = round(self.width * k.shape[2] / 2), memory.get(site.name), (*q.shape, *v.shape)
        if known is None or known["shape"] != shape:
            known = {"shape": shape, "calls": 0, "full": 0}
        call = known["calls"]
        memory[site.name] = known = known | {"calls": call + 1}
        if call < self.warmup - 1:  # nobody will ask for what this one could tell
            return run(streams)
        if call < self.warmup or call - known["full"] >= self.interval:
            out, rho, kept = self._full(streams, run, radius)
            known |= {"full": call, "rho": rho, "kept": kept}
            return {"out": out}
        if self.faithful:
            known["rho"] = (known["rho"] + DRIFT).clamp_max(1)
        kept = known["kept"] if self.residual else torch.zeros_like(known["kept"])
        return {"out": kept + (known["rho"] if self.reshape else 1) * banded(q, k, v, radius) if self.width else kept}

    def _full(self, streams: Streams, run: Call, radius: int) -> tuple[Tensor, Tensor, Tensor]:
        """Full output O [B, H, N, d], rho [B, H, N, 1] and R like O."""
        q, k, v = (streams[n].to(torch.promote_types(streams[n].dtype, torch.float32)) for n in "qkv")
        out, lse = _with_lse(q, k, v, lambda parts: run({**streams, **parts})["out"])
        inside, seen = _banded_lse(q, k, v, radius)
        rho = (seen - lse).exp().clamp_max(1)[..., None]
        kept = out - (rho if self.reshape else 1) * inside if self.width else out
        return tuple(x.to(streams["v"].dtype) for x in (out, rho, kept))

    @staticmethod
    def _check(site: Site, streams: Streams, run: Call) -> None:
        odd = [n for n in ("is_causal", "scale", "enable_gqa", "dropout_p") if run.bound.get(n)]
        if streams.get("mask") is not None or odd or streams["q"].shape[2] != streams["k"].shape[2]:
            what = ", ".join(odd) or ("a mask" if streams.get("mask") is not None else "fewer keys than queries or more")
            raise OrnsteinError(f"Rettention does not fit the attention at '{site.name}': it has {what}",
                                "It is for plain self-attention; choose other sites by roles.")  # fmt: skip


def _with_lse(q: Tensor, k: Tensor, v: Tensor, attend: Callable[[Streams], Tensor]) -> tuple[Tensor, Tensor]:
    """Output [B, H, N, d] and log-sum-exp [B, H, N] of the scores from one fused call, which returns no log-sum-exp.

    One key more, of score c_i = s_ii and with a channel of its own as value, takes the share p_i = e^c / (e^c + Z); as
    Z >= e^c, p is at most 1/2 and Z = e^c (1 - p) / p loses no digits.
    """
    d = v.shape[-1]
    room = -(-(q.shape[-1] + 1) // 8) * 8 - q.shape[-1]  # fused kernels like multiples of 8
    c = (q * k).sum(-1) * q.shape[-1] ** -0.5
    q, k, v = q * (1 + room / q.shape[-1]) ** 0.5, F.pad(k, (0, room, 0, 1)), F.pad(v, (0, room, 0, 1))
    q = torch.cat([q, (c * k.shape[-1] ** 0.5)[..., None], F.pad(q[..., :0], (0, room - 1))], -1)
    k[..., -1, -room] = v[..., -1, d] = 1
    out = attend({"q": q, "k": k, "v": v})
    p = out[..., d]
    return out[..., :d] / (1 - p)[..., None], c + torch.log1p(-p) - p.log()


@lru_cache(maxsize=64)
def _seen(tokens: int, radius: int, block: int) -> Tensor:
    """bool [blocks, block, block + 2 radius]: which keys of its block's neighbourhood a query sees."""
    blocks = -(-tokens // block)
    i = torch.arange(blocks * block).view(blocks, block, 1)
    j = torch.arange(blocks)[:, None, None] * block + torch.arange(block + 2 * radius) - radius
    return ((i - j).abs() <= radius) & (j >= 0) & (j < tokens) | (i >= tokens)  # a query of the padding sees anything


def _blocks(q: Tensor, k: Tensor, v: Tensor, radius: int) -> tuple[Tensor, ...]:
    """q, k, v [B, H, N, d] -> [B H, blocks, block or block + 2 radius, d] and the mask; no N x N scores anywhere."""
    tokens, block = q.shape[2], min(max(2 * radius, 16), q.shape[2])
    short = -tokens % block
    q = F.pad(q, (0, 0, 0, short)).flatten(0, 1).unflatten(1, (-1, block))
    k, v = (F.pad(x, (0, 0, radius, radius + short)).flatten(0, 1).unfold(1, block + 2 * radius, block).transpose(2, 3)
            for x in (k, v))  # fmt: skip
    return q, k, v, _seen(tokens, radius, block).to(q.device)


def banded(q: Tensor, k: Tensor, v: Tensor, radius: int) -> Tensor:
    """Attention [B, H, N, d] in which query i sees the keys i - radius ... i + radius."""
    blocked = _blocks(q, k, v, radius)
    out = F.scaled_dot_product_attention(*blocked[:3], attn_mask=blocked[3])
    return out.flatten(1, 2)[:, : q.shape[2]].unflatten(0, q.shape[:2])


def _banded_lse(q: Tensor, k: Tensor, v: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The same with the log-sum-exp [B, H, N] of the scores that were seen."""
    out, lse = attention_lse(*_blocks(q, k, v, radius))
    return tuple(x.flatten(1, 2)[:, : q.shape[2]].unflatten(0, q.shape[:2]) for x in (out, lse))
