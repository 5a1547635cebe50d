"""Scenes of a known number of discs, and a counter of connected parts: the synthetic world of the counting metric."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["components", "scenes"]

CELL = 8  # pixels a side of the cell that a disc lies in; discs of different cells never touch


def scenes(counts: Tensor, side: int = 32, seed: int = 0) -> Tensor:
    """[N, 1, side, side] in [-1, 1]: counts [N] white discs of radius 1.5 to 2.5 on black, each in a cell of its own."""
    across = side // CELL
    if counts.min() < 0 or counts.max() > across**2:
        raise OrnsteinError(f"{int(counts.max())} discs in {across**2} cells", f"Ask for 0 to {across**2}, or more pixels.")
    generator, n = torch.Generator().manual_seed(seed), len(counts)
    order = torch.rand(n, across**2, generator=generator).argsort(1).argsort(1)
    radius = 1.5 + torch.rand(n, across**2, generator=generator)
    centre = torch.rand(n, across**2, 2, generator=generator) * (CELL - 2 - 2 * radius[..., None]) + radius[..., None] + 0.5
    at = torch.arange(CELL) + 0.0
    gap = ((at[:, None] - centre[..., 0, None, None]) ** 2 + (at - centre[..., 1, None, None]) ** 2).sqrt()
    ink = (radius[..., None, None] + 0.5 - gap).clamp(0, 1) * (order < counts[:, None])[..., None, None]  # soft rims
    tiles = ink.view(n, across, across, CELL, CELL).transpose(2, 3).reshape(n, 1, across * CELL, across * CELL)
    return F.pad(tiles, (0, side - across * CELL, 0, side - across * CELL)) * 2 - 1


def components(images: Tensor, threshold: float = 0.0, least: int = 3) -> Tensor:
    """How many connected parts (corners touch too) of at least `least` pixels lie above `threshold`: int [N].

    images [N, 1, H, W]. Every pixel takes the largest number in its neighbourhood until nothing changes: as many rounds as
    the longest path within a part.
    """
    mask = images.detach() > threshold
    h, w = images.shape[-2:]
    numbers = torch.arange(1, h * w + 1, dtype=torch.float32, device=images.device).view(1, 1, h, w)
    label = numbers * mask
    for _ in range(h * w):
        spread = F.max_pool2d(label, 3, stride=1, padding=1) * mask
        if torch.equal(spread, label):
            break
        label = spread
    sizes = torch.zeros(len(images), h * w + 1, device=images.device)
    sizes.scatter_add_(1, label.flatten(1).long(), torch.ones_like(label).flatten(1))
    return (sizes[:, 1:] >= least).sum(1)
