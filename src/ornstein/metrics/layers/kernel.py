"""The squared maximum mean discrepancy without bias, under any kernel, with a bootstrap that knows a sample's own copies.

Arthur Gretton, Karsten M. Borgwardt, Malte J. Rasch, Bernhard Schoelkopf, Alexander Smola, "A kernel two-sample test",
Journal of Machine Learning Research 13, 2012, eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Kernel", "blocks", "mmd2", "weights"]

Kernel = Callable[[Tensor, Tensor], Tensor]  # [N, D], [M, D] -> [N, M]


def mmd2(g: Tensor, r: Tensor, kernel: Kernel, rounds: int, generator: torch.Generator) -> Tensor:
    """Unbiased MMD^2 of features [N, D], [M, D] under weights 1, then under `rounds` multinomial reweightings."""
    w, v = weights(len(g), rounds, generator).to(g), weights(len(r), rounds, generator).to(r)

    def within(k: Tensor, u: Tensor) -> Tensor:
        pairs = u.sum(1) ** 2 - (u * u).sum(1)  # weight of all pairs i != j
        return (((u @ k) * u).sum(1) - (u * u) @ k.diagonal()) / pairs

    cross = ((w @ kernel(g, r)) * v).sum(1) / (w.sum(1) * v.sum(1))
    return within(kernel(g, g), w) + within(kernel(r, r), v) - 2 * cross


def blocks(g: Tensor, r: Tensor, kernel: Kernel, block: int, rounds: int, seed: int) -> Tensor:
    """MMD^2 averaged over disjoint random blocks of at most `block` a side: the value, then bootstrap's, [1 + rounds]."""
    generator = torch.Generator().manual_seed(seed)
    pieces = -(-max(len(g), len(r)) // block)
    pieces = min(pieces, len(g) // 2, len(r) // 2)
    split_g = torch.randperm(len(g), generator=generator).tensor_split(pieces)
    split_r = torch.randperm(len(r), generator=generator).tensor_split(pieces)
    parts = [mmd2(g[i.to(g.device)], r[j.to(r.device)], kernel, rounds, generator) for i, j in zip(split_g, split_r)]
    return torch.stack(parts).mean(0)


def weights(n: int, rounds: int, generator: torch.Generator) -> Tensor:
    """[1 + rounds, n]: ones, then how often each of n samples is drawn in n draws with replacement."""
    drawn = torch.randint(n, (rounds, n), generator=generator)
    one = torch.ones(1, n, dtype=torch.float64)
    return torch.cat([one, torch.zeros(rounds, n, dtype=torch.float64).scatter_add_(1, drawn, one.expand(rounds, n))])
