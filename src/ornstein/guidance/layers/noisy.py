"""Classifiers of noisy samples: a small network that is told the noise, and any network with a low-rank change of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Levels, Process

__all__ = ["LowRank", "NoisyMLP", "adapted", "fit", "noised", "scaled"]

TIMES = 4  # frequencies by which the network is told the flow time


class NoisyMLP(nn.Module):
    """(x [B, ...] of about unit size, flow time [B]) -> logits [B, classes]: two hidden layers of SiLU."""

    def __init__(self, features: int, classes: int, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        sizes = (features + 2 * TIMES + 1, width, width, classes)
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in zip(sizes, sizes[1:]))
        source = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=source)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        angle = place[:, None] * torch.arange(1, TIMES + 1, device=x.device) * torch.pi
        told = torch.cat([angle.cos(), angle.sin(), place[:, None]], 1)
        h = torch.cat([x.flatten(1), told.to(x)], 1).to(self.layers[0].weight)
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.layers[-1](h).to(x)


class LowRank(nn.Module):
    """weight -> weight + up down, of rank at most `rank`; nothing at the start."""

    def __init__(self, weight: Tensor, rank: int, source: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.randn(rank, columns, generator=source).to(weight) * columns**-0.5)
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).reshape(weight.shape)


def adapted(network: nn.Module, rank: int, seed: int = 0) -> nn.Module:
    """A copy in which only low-rank changes of linear and convolution weights, and biases, learn."""
    if rank < 1:
        raise OrnsteinError(f"rank={rank}", "Give at least 1.")
    child, source = copy.deepcopy(network).requires_grad_(False), torch.Generator().manual_seed(seed)
    found = [m for m in child.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if not found:
        raise OrnsteinError(f"{type(network).__name__} has no linear layer and no convolution to adapt",
                            "Give a network with such layers.")  # fmt: skip
    for layer in found:
        if layer.bias is not None:
            layer.bias.requires_grad_(True)
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight.detach(), rank, source))
    return child


def scaled(x: Tensor, levels: Levels, std: float) -> Tensor:
    """x_t at the size of the data, whatever the noise: what a network of clean data can look at."""
    return x * (std / (levels.a**2 * std**2 + levels.s**2).sqrt()).to(x)


def noised(process: Process, x0: Tensor, low: float, high: float, source: torch.Generator) -> tuple[Tensor, Levels, Tensor]:
    """x_t [B, ...] at flow times uniform in (low, high), with its levels and flow times [B]."""
    place = (low + (high - low) * torch.rand(len(x0), generator=source)).clamp(1e-4, 1 - 1e-4)
    t = process.time(2 * ((1 - place).log() - place.log()))
    return process.corrupt(x0, torch.randn(x0.shape, generator=source), t), process.at(t, x0), place


def fit(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], steps: int, rate: float) -> list[float]:
    """AdamW with the rate going down to nothing; the losses [steps]."""
    chooser, losses = torch.optim.AdamW([p for p in parameters if p.requires_grad], rate, weight_decay=0.05), []
    with torch.enable_grad():
        for step in range(steps):
            chooser.param_groups[0]["lr"] = rate * (1 - step / steps)
            chooser.zero_grad()
            value = loss()
            value.backward()
            chooser.step()
            losses.append(value.item())
    return losses
