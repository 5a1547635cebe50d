"""InvDiff: a small learned term that makes a model do equally well on groups of the data that nobody named.

InvDiff: Invariant Guidance for Bias Mitigation in Diffusion Models, Min Hou, Yueying Wu, Chang Xu, Yu-Hao Huang, Chenxi
Bai, Le Wu, Jiang Bian, 2024, arXiv:2412.08480. The given model's error l_i on each sample yields soft groups W (what a
biased model does badly is rare); then a small network delta, the model itself frozen, minimises

    mean_g L_g + penalty Var_g(L_g),   L_g = sum_i W_ig |v_i - v(x_t, t, c) - delta(x_t, t, c)|^2 / sum_i W_ig.

Where the groups are right the first term alone is the loss on data with equal shares of the groups, so that its optimum
samples those. v = (a noise - s x0) / sqrt(a^2 + s^2). Costs a small call per evaluation; `fit`, `pairs` + 1 calls a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels

from .layers.contrast import own
from .layers.groups import losses, split

__all__ = ["Invariant", "Shift", "fit"]

KIND = "invariant"


class Shift(nn.Module):
    """(x [B, ...], flow time [B], label [B]) -> like x: two hidden layers on the flattened sample; zero at the start."""

    def __init__(self, features: int, labels: int, width: int) -> None:
        super().__init__()
        self.label = nn.Embedding(labels, width)
        self.into, self.mid = nn.Linear(features + 9, width), nn.Linear(width, width)
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, place: Tensor, label: Tensor) -> Tensor:
        angle = place.to(self.out.weight)[:, None] * torch.arange(1, 5, device=place.device) * torch.pi
        told = torch.cat([x.flatten(1).to(self.out.weight), place.to(self.out.weight)[:, None], angle.cos(), angle.sin()], 1)
        h = F.silu(self.mid(F.silu(self.into(told) + self.label(label))))
        return self.out(h).reshape(x.shape).to(x.dtype)


@dataclass(frozen=True)
class Invariant:
    """said + weight delta, as v, on the branch 'cond' only: under CFG the unconditional answer stays as it is."""

    learned: str | Path | Artefact = ""  # what `fit` made, or its file; "": nothing is changed
    weight: float = 1.0  # 1 as trained, 0 = off
    net: Shift | None = field(default=None, init=False, repr=False, compare=False)
    found: Artefact | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.learned:
            return
        found = self.learned if isinstance(self.learned, Artefact) else Artefact.load(self.learned, KIND)
        if found.kind != KIND:
            raise OrnsteinError(f"the artefact is of '{found.kind}', not of '{KIND}'", "Give what `fit` made.")
        net = _fresh(found.settings)
        net.load_state_dict({k.removeprefix("net."): v for k, v in found.arrays.items() if k.startswith("net.")})
        object.__setattr__(self, "net", net.eval().requires_grad_(False))
        object.__setattr__(self, "found", found)

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [] or [B]; cond: dict with 'label' [B] where it was trained with labels."""
        said = denoiser(x, t, cond, clock)
        if self.net is None or self.weight == 0 or not own(clock):
            return said
        self.found.check(denoiser)
        if x[0].numel() != self.found.settings["features"]:
            raise OrnsteinError(f"samples of {x[0].numel()} numbers, trained for {self.found.settings['features']}",
                                "Train the invariant term for this size.")  # fmt: skip
        norm = _norm(said.levels)
        delta = self.net.to(x.device)(x / norm, _place(said.levels, x), _labels(cond, len(x), x.device))
        return said.like("v", said.v + self.weight * norm * delta)


def _fresh(settings: Any) -> Shift:
    return Shift(settings["features"], settings["labels"], settings["width"])


def _norm(levels: Levels) -> Tensor:
    return (levels.a**2 + levels.s**2).sqrt()


def _place(levels: Levels, x: Tensor) -> Tensor:
    place = levels.flow_time.to(x.device)
    return place.expand(len(x)) if place.ndim == 0 else place.flatten(1)[:, 0].expand(len(x))


def _labels(cond: Any, batch: int, device: Any) -> Tensor:
    return cond["label"] if isinstance(cond, dict) and "label" in cond else torch.zeros(batch, dtype=torch.long, device=device)


def fit(denoiser: Denoises, x: Tensor, cond: dict[str, Tensor] | None = None, groups: int | Tensor = 8, penalty: float = 1.0,
        pairs: int = 32, width: int = 64, steps: int = 600, batch: int = 256, seed: int = 0) -> Artefact:  # fmt: skip
    """x: data [N, ...]; cond: {'label': [N]} or None; groups: how many to look for, or their weights [N, G], rows of sum 1;
    pairs: noised copies of each sample that its error is the mean of; penalty: of the variance between groups."""
    if len(x) < 2 or (isinstance(groups, int) and groups < 1):
        raise OrnsteinError(f"{len(x)} samples in {groups} groups", "Give at least two samples and one group.")
    generator = torch.Generator().manual_seed(seed)
    if isinstance(groups, Tensor):
        found = groups.double()
    else:
        found = split(losses(denoiser, x, cond, pairs, (-6.0, 6.0), seed), groups, seed=seed)
    label = _labels(cond, len(x), x.device)
    share = max(1, batch // found.shape[1])
    settings = {"features": x[0].numel(), "labels": int(label.max()) + 1, "width": width, "groups": found.shape[1],
                "penalty": penalty}  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = _fresh(settings).to(x.device)
        optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            rows = torch.cat([torch.multinomial(w, share, True, generator=generator) for w in found.T])  # each group its share
            few = None if cond is None else {k: v[rows] for k, v in cond.items()}
            noisy, place, missing = _lesson(denoiser, x[rows], few, generator)
            off = (missing - net(noisy, place, label[rows])).double().flatten(1).square().mean(1)
            each = off.reshape(-1, share).mean(1)
            optimiser.zero_grad()
            (each.mean() + penalty * each.var(unbiased=False)).backward()
            optimiser.step()
            schedule.step()
    arrays = {f"net.{k}": v.detach() for k, v in net.state_dict().items()} | {"groups": found}
    return Artefact(KIND, arrays, settings, describe(denoiser))


@torch.no_grad()
def _lesson(denoiser: Denoises, x: Tensor, cond: Any, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t normalised, flow time uniform in (0.01, 0.99), what the denoiser lacks of v) of each row."""
    place = 0.01 + 0.98 * torch.rand(len(x), generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator).to(x)
    t = denoiser.process.time(2 * (1 - place).log() - 2 * place.log()).to(x.device)  # sigma = place / (1 - place)
    noisy = denoiser.process.corrupt(x, noise, t).to(x.dtype)
    said = denoiser(noisy, t, cond, Clock(t=t, ids=tuple(range(len(x)))))
    levels, norm = said.levels, _norm(said.levels)
    return noisy / norm, place, (levels.a * noise - levels.s * x - said.v) / norm
