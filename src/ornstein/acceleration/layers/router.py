"""Routers of dynamic depth and width: what they are told of the time, hard decisions that can be learned, and learning them.

A decision is 1[logit > 0] forwards and sigmoid(logit / tau) backwards (straight-through). The cost of what was decided, as
a share of the whole, is driven to a target: (F_dynamic / F_whole - lambda)^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, running

__all__ = ["FEATURES", "Fit", "Lesson", "by_value", "decide", "features", "fit", "learned", "times"]

FEATURES = 9  # numbers that say what the time is


@dataclass(eq=False)
class Lesson:
    """Makes a plugin teachable: everything is computed and weighted by its decision. costs: what was decided, [B] per site,
    as shares of the whole network's blocks; source: of the noise on decisions, None for none."""

    source: torch.Generator | None = None
    costs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Fit:
    """How long and how hard routers are taught."""

    target: float = 0.7  # lambda: share of the blocks' FLOPs that shall be computed, on average over times
    steps: int = 150  # updates
    batch: int = 32  # samples of an update
    lr: float = 0.03  # of Adam, falling to 0 along a cosine
    price: float = 2.0  # rho: weight of the cost's squared distance to the target (DyDiT's)
    anneal: float = 0.3  # share of the updates within which the target goes from 1 to lambda
    seed: int = 0


def features(t: Tensor) -> Tensor:
    """t [B] in [0, 1] -> [B, FEATURES]: t itself, and sine and cosine of 1/2, 1, 2, 4 turns."""
    angle = t[:, None].float() * math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0], device=t.device)
    return torch.cat([t[:, None].float(), angle.sin(), angle.cos()], 1)


def times(clock: Clock, batch: int) -> Tensor:
    """The time of each row [B], on the CPU: the mean where it differs within a row."""
    t = torch.as_tensor(clock.t, dtype=torch.float32).cpu()
    t = t.flatten(1).mean(1) if t.ndim > 1 else t
    return t.expand(batch) if t.ndim == 0 or len(t) == batch else t.mean().expand(batch)


def decide(logit: Tensor, lesson: Lesson | None = None, tau: float = 1.0) -> Tensor:
    """1 or 0 where logit > 0; while it is taught with the gradient of sigmoid((logit + logistic noise) / tau)."""
    if lesson is None:
        return (logit > 0).to(logit.dtype)
    if lesson.source is not None:
        u = torch.rand(logit.shape, generator=lesson.source).clamp(1e-6, 1 - 1e-6).to(logit.device)
        logit = logit + u.log() - (-u).log1p()
    soft = (logit / tau).sigmoid()
    return (logit > 0).to(logit.dtype) - soft.detach() + soft


def by_value(values: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Rows of values [B, ...] that are alike: (the value, the rows); rows is None where all are."""
    kinds, kind = values.unique(dim=0, return_inverse=True)
    if len(kinds) == 1:
        return [(kinds[0], None)]
    return [(v, (kind == k).nonzero()[:, 0]) for k, v in enumerate(kinds)]


def learned(given: str | Path | Artefact, kind: str, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The arrays of an artefact or its file; {} where none is given."""
    if isinstance(given, str) and not given:
        return {}
    found = given if isinstance(given, Artefact) else Artefact.load(given, kind)
    if found.kind != kind or any(n not in found.arrays for n in names):
        raise OrnsteinError(f"this artefact holds no routers of '{kind}'", "Give the file that was learned for this part.")
    return found.arrays


def fit(denoiser: Any, plugin: Any, arrays: Mapping[str, Tensor], lesson: Lesson, draw: Callable[[torch.Generator, int], tuple],
        settings: Fit) -> list[tuple[float, float]]:  # fmt: skip
    """Teach `arrays` in place, the network frozen: mean (dynamic - whole)^2 / mean whole^2 + rho (cost - target)^2.

    plugin: reads these arrays and this lesson. draw(source, batch) -> (x_0 [B, ...], cond). Answers (error, cost) per update.
    """
    source, told = torch.Generator().manual_seed(settings.seed), []
    free = [a.requires_grad_() for a in arrays.values() if a.is_floating_point()]
    adam, detach = torch.optim.Adam(free, settings.lr), attach(denoiser.backbone, plugin)
    try:
        for k in range(settings.steps):
            adam.param_groups[0]["lr"] = settings.lr * (1 + math.cos(math.pi * k / settings.steps)) / 2
            x0, cond = draw(source, settings.batch)
            t, n = torch.rand(len(x0), generator=source), torch.randn(x0.shape, generator=source).to(x0)
            levels = denoiser.process.at(t.to(x0.device), x0)
            x, clock = levels.a * x0 + levels.s * n, Clock(t=t, ids=tuple(range(len(x0))))
            with torch.no_grad():
                whole = denoiser(x.to(x0.dtype), t, cond).output.value
            with running(Run()), torch.enable_grad():
                lesson.costs.clear()
                mine = denoiser(x.to(x0.dtype), t, cond, clock).output.value
                error = (mine - whole).square().mean() / whole.square().mean()
                cost = torch.stack(lesson.costs).sum(0).mean()
                aim = max(settings.target, 1 - (1 - settings.target) * k / max(1, settings.anneal * settings.steps))
                (error + settings.price * (cost - aim) ** 2).backward()
            adam.step()
            adam.zero_grad()
            told.append((error.item(), cost.item()))
    finally:
        detach()
        for a in free:
            a.requires_grad_(False)
    return told
