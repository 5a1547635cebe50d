"""Real digits, known ways to damage them, and rank correlation: what the metrics' evidence is tried on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.data.digits import Digits
from ornstein.metrics.layers.digits import predict

DAMAGES = ("shift", "noise", "blur", "contrast", "brightness", "erase")
LEVELS = {"shift": (1, 2, 3, 5), "noise": (0.3, 0.6, 1.0, 1.6), "blur": (1.0, 2.0, 3.5, 6.0),
          "contrast": (0.8, 0.6, 0.4, 0.2), "brightness": (0.1, 0.3, 0.6, 0.9), "erase": (4, 8, 12, 16)}  # fmt: skip


@cache
def digits(side: int = 8) -> tuple[Tensor, Tensor]:
    """All 1797 real digits, shuffled (seed 0), [N, 1, side, side] in [-1, 1] (bilinear), and their labels [N]."""
    data = Digits("all")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    x = data.images()[order]
    if side != 8:
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return x, data.labels[order]


def damage(x: Tensor, kind: str, level: float, seed: int = 0) -> Tensor:
    """x [N, 1, H, W] damaged in one of DAMAGES; values stay in [-1, 1]."""
    if kind == "shift":
        return F.pad(x, (int(level), 0, 0, 0), value=-1.0)[..., : x.shape[-1]]
    if kind == "noise":
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return (x + level * noise).clamp(-1, 1)
    if kind == "blur":
        reach = min(int(3 * level) + 1, x.shape[-1] - 1)
        steps = torch.arange(-reach, reach + 1, dtype=x.dtype)
        taps = torch.exp(-(steps**2) / (2 * level**2))
        taps = taps / taps.sum()
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    if kind == "contrast":
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + level * (x - mean)
    if kind == "brightness":
        return (x + level).clamp(-1, 1)
    top = (x.shape[-1] - int(level)) // 2
    damaged = x.clone()
    damaged[..., top : top + int(level), top : top + int(level)] = -1.0
    return damaged


def illegibility(x: Tensor, labels: Tensor) -> float:
    """Share of digits [N, 1, 32, 32] that the shipped classifier misreads after averaging down to 8x8."""
    return (predict(F.avg_pool2d(x, 4)) != labels).double().mean().item()


def some(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """n random digits at 32x32 and their labels."""
    x, y = digits(32)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]
    return x[rows], y[rows]


def track(scores: dict[str, Callable[[Tensor, Tensor], float]], seed: int, n: int = 80) -> dict[str, float]:
    """Spearman correlation, over all 24 damages, of each badness `score(damaged, clean)` with illegibility."""
    x, y = some(seed, n)
    worse = [damage(x, kind, level, seed) for kind in DAMAGES for level in LEVELS[kind]]
    truth = [illegibility(w, y) for w in worse]
    return {name: spearman([score(w, x) for w in worse], truth) for name, score in scores.items()}


def track_equal_mse(scores: dict[str, Callable[[Tensor, Tensor], float]], seed: int, n: int = 80) -> dict[str, float]:
    """The same over four kinds of damage that are tuned to one MSE; the mean over MSE 0.1, 0.2, 0.3."""
    x, y = some(seed, n)
    found: dict[str, list[float]] = {name: [] for name in scores}
    for target in (0.1, 0.2, 0.3):
        worse = [tuned(x, kind, target, seed) for kind in ("noise", "blur", "contrast", "brightness")]
        truth = [illegibility(w, y) for w in worse]
        for name, score in scores.items():
            found[name].append(spearman([score(w, x) for w in worse], truth) if len(set(truth)) > 1 else 0.0)
    return {name: sum(v) / len(v) for name, v in found.items()}


def tuned(x: Tensor, kind: str, target: float, seed: int) -> Tensor:
    """x damaged to a mean squared error of `target`, by halving the level."""
    low, high = {"noise": (0.0, 4.0), "blur": (0.2, 8.0), "contrast": (1.0, 0.0), "brightness": (0.0, 2.0)}[kind]
    for _ in range(12):
        middle = (low + high) / 2
        small = (damage(x, kind, middle, seed) - x).square().mean().item() < target
        low, high = (middle, high) if small else (low, middle)
    return damage(x, kind, (low + high) / 2, seed)


def ranks(values: list[float]) -> Tensor:
    """Ranks [N], ties share their mean rank."""
    v = torch.tensor(values, dtype=torch.float64)
    return (v[:, None] > v).double().sum(1) + (v[:, None] == v).double().sum(1) / 2


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation of two lists."""
    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


def rising(values: list[float]) -> float:
    """1 where the values rise strictly, else 0."""
    return float(all(a < b for a, b in zip(values, values[1:])))
