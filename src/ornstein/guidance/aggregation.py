"""Adaptive feature aggregation: several networks of one architecture, merged after every block by weights at each place.

Ensembling Diffusion Models via Adaptive Feature Aggregation, Cong Wang, Kuan Tian, Yonghang Guan, Fei Shen, Zhiwei
Jiang, Qing Gu, Jun Zhang, 2024, arXiv:2405.17082. With f_1 ... f_K what the K networks' blocks b say of one input,

    f = sum_k A_k f_k,   A = softmax over k of g_b(f_1, ..., f_K, t) at each token,   sum_k A_k = 1,

and f goes on to the next block of every network. The g_b alone are trained, by the denoising loss, with the networks
frozen; at the start A is even. Each network keeps its own embeddings and its own head; the heads' answers are weighted by
time. Costs K networks, the g_b, and embeddings and heads once more; `ensemble` merges at the output alone, for any models.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.sites import find_sites

__all__ = ["Aggregation", "Aggregated", "aggregated"]

_PASS: ContextVar[Any] = ContextVar("aggregation", default=None)  # what the empty places of blocks do in the call in progress


class Place(nn.Module):
    """Where a block was: writes down what it is given, and hands on its first argument, or what the last block said."""

    def forward(self, *args: Any) -> Any:
        asked, instead = _PASS.get()
        asked.append(args)
        return args[0] if instead is None else instead


class TokenGate(nn.Module):
    """(features of K networks, each [B, N, D]; time [B]) -> weights [K, B, N, 1], positive, of sum 1; even at the start."""

    def __init__(self, models: int, width: int, hidden: int) -> None:
        super().__init__()
        self.into = nn.Linear(models * width, hidden)
        self.all = nn.Linear(models * width, hidden)  # of the mean over tokens
        self.time = nn.Linear(5, 2 * hidden)
        self.out = nn.Linear(hidden, models)
        for layer in (self.time, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], t: Tensor) -> Tensor:
        x = torch.cat([F.layer_norm(f, f.shape[-1:]) for f in features], -1).to(self.out.weight)
        scale, shift = self.time(seen(t).to(x))[:, None].chunk(2, -1)
        h = F.silu((self.into(x) + self.all(x.mean(1, keepdim=True))) * (1 + scale) + shift)
        return self.out(h).softmax(-1).movedim(-1, 0)[..., None].to(features[0])


def seen(t: Tensor) -> Tensor:
    """What a gate is told of the time [B]: itself and its waves, [B, 5]."""
    return torch.stack([t, *(f(k * torch.pi * t) for k in (1, 2) for f in (torch.sin, torch.cos))], 1)


class Aggregated(nn.Module):
    """The networks as one. `gates` and `last` are all that trains. The networks given are copied, and stay as they are."""

    def __init__(self, networks: Sequence[nn.Module], hidden: int = 16, span: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in networks]
        if len(networks) < 2 or any(s != shapes[0] for s in shapes):
            raise OrnsteinError("aggregation needs two networks or more of one architecture", "Use ensemble for others.")
        sites = find_sites(networks[0])
        names = [s.name for s in sites if s.grain == "block"]
        if not names or any(s.grain == "stage" for s in sites) or not hasattr(networks[0], "width"):
            raise OrnsteinError(f"{type(networks[0]).__name__} is not one row of blocks over tokens", "Use ensemble.")
        self.shells = nn.ModuleList(copy.deepcopy(n).requires_grad_(False) for n in networks)
        self.blocks = nn.ModuleList(nn.ModuleList(s.get_submodule(n) for n in names) for s in self.shells)
        for shell in self.shells:
            for name in names:
                parent, _, leaf = name.rpartition(".")
                setattr(shell.get_submodule(parent), leaf, Place())
        self.span, count, width = span, len(networks), networks[0].width
        self.gates = nn.ModuleList(TokenGate(count, width, hidden) for _ in names)
        self.last = nn.Linear(5, count)  # of the heads
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def _empty(self, k: int, x: Tensor, t: Tensor, cond: Any, instead: Any = None) -> tuple[list, Any]:
        """Network k without its blocks: what each of them would be given, and what its head says."""
        token = _PASS.set((asked := [], instead))
        try:
            return asked, self.shells[k](x, t, cond)
        finally:
            _PASS.reset(token)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        low, high = self.span
        told = ((t.flatten(1).mean(1) if t.ndim > 1 else t).float() - low) / (high - low)
        given = [self._empty(k, x, t, cond)[0] for k in range(len(self.shells))]
        features = [asked[0][0] for asked in given]
        for b, gate in enumerate(self.gates):
            said = [blocks[b](f, *asked[b][1:]) for blocks, f, asked in zip(self.blocks, features, given)]
            if not all(isinstance(s, Tensor) and s.ndim == 3 for s in said):
                raise OrnsteinError("these blocks do not hand on one tensor of tokens [B, N, D]", "Use ensemble.")
            merged = sum(w * s for w, s in zip(gate(said, told.expand(len(x))), said))
            features = [merged] * len(said)
        heads = self.last(seen(told.expand(len(x))).to(self.last.weight)).softmax(-1).T
        answers = [self._empty(k, x, t, cond, merged)[1] for k in range(len(self.shells))]
        return sum(w.view(-1, *[1] * (a.ndim - 1)).to(a) * a for w, a in zip(heads, answers))


@dataclass(frozen=True, eq=False)
class Aggregation:
    """Answers with the aggregated network in place of the wrapped denoiser's; it must be one of those aggregated."""

    network: Aggregated | None = None  # of `aggregated`; None: the wrapped denoiser as it is

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...] or None. The condition goes to all."""
        if self.network is None:
            return denoiser(x, t, cond, clock)
        if not isinstance(denoiser, Denoiser):
            raise OrnsteinError(f"aggregation takes the place of a network, and {type(denoiser).__name__} is none",
                                "Make it the first rule, before guidance.")  # fmt: skip
        return replace(denoiser, backbone=self.network)(x, t, cond, clock)


def aggregated(denoisers: Sequence[Denoiser], hidden: int = 16) -> Aggregated:
    """The networks of denoisers that live on one process and predict alike, as one; hidden: width of the gates."""
    first = denoisers[0]
    for other in denoisers[1:]:
        if (other.process, other.predicts, other.time) != (first.process, first.predicts, first.time):
            raise OrnsteinError("these denoisers do not predict alike on one process", "Use ensemble.")
    return Aggregated([d.backbone for d in denoisers], hidden)
