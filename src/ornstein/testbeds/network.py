"""The exact denoiser as a network of blocks: ground truth under everything that sits inside of networks.

E[x0 | x] of a kernel density is attention from x to the data: with total = a^2 h^2 + s^2 the scores are -|x - a d_i|^2 / (2 total)
and the values are the data d_i. Each block attends to its own part of them and merges what it finds, as partial attentions are
merged (Milakov, Gimelshein, 2018, arXiv:1805.02867), into a residual stream that holds the mean and the log-sum-exp so far:

    share = sigmoid(lse_l - lse),   mean + share (mean_l - mean),   log(exp lse + exp lse_l).

A block that is left out leaves out its data: what remains is the exact denoiser of the others. Costs 2 N D per row.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Process
from ornstein.core.sites import Seat

__all__ = ["Network"]


class Attend(nn.Module):
    """Query [B, 1, D + 2] -> posterior mean of this part of the data and log-sum-exp of its scores, [B, 1, D + 1]."""

    seat: ClassVar[Seat] = Seat("branch", "attention")

    def __init__(self, data: Tensor, weights: Tensor) -> None:
        super().__init__()
        n, dims = data.shape
        self.keys, self.values = nn.Linear(dims + 2, n), nn.Linear(n, dims, bias=False)
        ends = torch.stack([data.square().sum(1), torch.ones(n).to(data)], 1) / -2
        self.keys.weight, self.keys.bias = nn.Parameter(torch.cat([data, ends], 1)), nn.Parameter(weights.log())
        self.values.weight = nn.Parameter(data.T.contiguous())

    def forward(self, query: Tensor) -> Tensor:
        scores = self.keys(query)
        return torch.cat([self.values(scores.softmax(-1)), scores.logsumexp(-1, keepdim=True)], -1)


class Block(nn.Module):
    """h + what the attention to this part of the data changes."""

    seat: ClassVar[Seat] = Seat("block", "block", ("h",))

    def __init__(self, data: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.attention = Attend(data, weights)

    def forward(self, h: Tensor, query: Tensor) -> Tensor:
        said = self.attention(query)
        gap, lse = said[..., -1:] - h[..., -1:], torch.logaddexp(said[..., -1:], h[..., -1:])
        return torch.cat([h[..., :-1].lerp(said[..., :-1], gap.sigmoid()), lse], -1)


class Network(nn.Module):
    """x [B, ...], t [B] -> E[x0 | x], reckoned in float64. Datum i belongs to block i mod (depth + 1) - 1, and to the stem
    where that is -1, so that all parts are alike."""

    def __init__(self, data: Tensor, process: Process, bandwidth: float = 0.1, depth: int = 6,
                 weights: Tensor | None = None) -> None:  # fmt: skip
        """data: [N, ...]; bandwidth: h, standard deviation of the kernel on each datum; weights: [N], of any sum."""
        super().__init__()
        if len(data) <= depth:
            raise OrnsteinError(f"{len(data)} data for {depth} blocks and a stem", "Give more data, or fewer blocks.")
        self.process, self.bandwidth, self.shape = process, bandwidth, data.shape[1:]
        flat, w = data.flatten(1).double(), torch.ones(len(data)) if weights is None else weights
        parts = [(flat[k :: depth + 1], w[k :: depth + 1].double()) for k in range(depth + 1)]
        self.stem, self.blocks = Attend(*parts[0]), nn.ModuleList(Block(*part) for part in parts[1:])
        self.eval().requires_grad_(False)

    @property
    def denoiser(self) -> Denoiser:
        return Denoiser(self, self.process, "x0", "t")

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if x.shape[1:] != self.shape:
            what = f"a sample of shape {tuple(x.shape[1:])} for data of shape {tuple(self.shape)}"
            raise OrnsteinError(what, "Give samples shaped as the data.")
        L, flat = self.process.at(t, x.double()), x.double().flatten(1)[:, None]
        a, s = (v.expand_as(x).flatten(1)[:, None, :1] for v in (L.a, L.s))  # of one time for each row
        total = a**2 * self.bandwidth**2 + s.clamp_min(1e-6) ** 2
        query = torch.cat([a * flat, a**2, flat.square().sum(-1, keepdim=True)], -1) / total
        h = self.stem(query)
        for block in self.blocks:
            h = block(h, query)
        mean = h[..., :-1]
        return (mean + a * self.bandwidth**2 / total * (flat - a * mean)).reshape(x.shape)
