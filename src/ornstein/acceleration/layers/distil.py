"""A network taught to say the same under a plugin: the host is the frozen teacher, its attentions are what is trained.

The loss of CLEAR (Liu, Tan, Wang, 2024, arXiv:2412.16112) and LinFusion (Liu, Yu, Tan, Wang, 2024, arXiv:2409.02097):

    L = gamma |target - said|^2 + alpha |teacher - said|^2 + beta mean_l |A_l(teacher) - A_l|^2,

A_l the output of attention branch l, after its projection. One pass of the teacher, one of the student and back per step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import KINDS, Prediction
from ornstein.core.seam import Call, Run, Streams, attach, running
from ornstein.core.sites import Site, find_sites

__all__ = ["Distilled", "Recipe", "distil"]


@dataclass(frozen=True)
class Recipe:
    """What the training is like."""

    steps: int = 200  # updates
    lr: float = 1e-3  # of AdamW, falling to 0 along a half cosine
    target: float = 1.0  # gamma, weight of the data's own loss (both papers: 1); 0 where the data is not what the host learned
    output: float = 0.5  # alpha, the weight of the teacher's answer (both papers: 0.5)
    feature: float = 0.5  # beta, the weight of the attentions' outputs (both papers: 0.5)
    seed: int = 0  # of batches, times and noise

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or min(self.target, self.output, self.feature) < 0:
            raise OrnsteinError(f"{self}", "steps is at least 1, lr above 0, the weights are not negative.")


@dataclass(frozen=True)
class Distilled:
    """denoiser: the student; weights: what was trained of its network, by name, for load_state_dict(weights,
    strict=False); losses [steps, 3]: of the target, the teacher and the attentions."""

    denoiser: Denoiser
    weights: Mapping[str, Tensor]
    losses: Tensor


class Tap:
    """Keeps what the attention branches hand on."""

    effects: ClassVar[Effects] = Effects()

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.kept = set(names), {}

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "branch" and s.name in self.names]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        out = run(streams)
        self.kept[site.name] = next(iter(out.values()))
        return out


def distil(denoiser: Denoiser, plugin: Any, batch: Callable[[torch.Generator], tuple[Tensor, Any]],
           recipe: Recipe | None = None, student: nn.Module | None = None,
           extra: Mapping[str, Tensor] | None = None) -> Distilled:  # fmt: skip
    """Teach a copy of the denoiser's network to answer under `plugin` as the network does without it.

    batch(generator) -> (x0 [B, ...], cond). student: a copy prepared by the caller, whose parameters with requires_grad are
    trained; by default a plain copy, all parameters of the attentions that the plugin sits at. extra: other tensors to be
    trained with them, in place: maps of the plugin's own, or a LoRA's on the student.
    """
    recipe, host = recipe or Recipe(), denoiser.backbone
    if any(f.name == "warmup" for f in fields(plugin)):
        plugin = replace(plugin, warmup=0)  # every call of the training is the first of its run
    names = {s.name for s in plugin.select(find_sites(host))}
    net = student if student is not None else _copy(host, names)
    mine = {k: p for k, p in net.named_parameters() if p.requires_grad}
    trained = {**mine, **(extra or {})}
    if not trained:
        raise OrnsteinError("nothing of the student is to be trained", "Leave requires_grad on what should be, or give extra.")
    flags = {k: v.requires_grad for k, v in trained.items()}
    for value in trained.values():
        value.requires_grad_()
    pupil, source = replace(denoiser, backbone=net), torch.Generator().manual_seed(recipe.seed)
    taps = Tap(names), Tap(names)
    detach = attach(host, taps[0], scope="teacher"), attach(net, [plugin, taps[1]])
    optimiser, losses = torch.optim.AdamW(trained.values(), recipe.lr, weight_decay=0.0), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    try:
        for _ in range(recipe.steps):
            with torch.enable_grad():
                parts = _losses(denoiser, pupil, taps, *batch(source), source)
                optimiser.zero_grad()
                loss = recipe.target * parts[0] + recipe.output * parts[1] + recipe.feature * parts[2]
                loss.backward(inputs=list(trained.values()))
            optimiser.step()
            schedule.step()
            losses.append(torch.stack(parts).detach())
    finally:
        for off in detach:
            off()
        for name, value in trained.items():
            value.requires_grad_(flags[name] and name not in mine)
    return Distilled(pupil, {k: p.detach() for k, p in mine.items()}, torch.stack(losses))


def _copy(host: nn.Module, names: set[str]) -> nn.Module:
    net = copy.deepcopy(host).requires_grad_(False)
    for name in names:
        net.get_submodule(name).requires_grad_(True)
    return net


def _losses(teacher: Denoiser, pupil: Denoiser, taps: tuple[Tap, Tap], x0: Tensor, cond: Any,
            source: torch.Generator) -> list[Tensor]:  # fmt: skip
    """Of the target, the teacher's answer and its attentions."""
    process, batch = teacher.process, len(x0)
    t = process.t_min + (process.t_max - process.t_min) * torch.randn(batch, generator=source).sigmoid().to(x0.device)
    noise = torch.randn(x0.shape, generator=source).to(x0)
    x, clock = process.corrupt(x0, noise, t), Clock(t=t, ids=tuple(range(batch)))
    with torch.no_grad(), running(Run(scope="teacher")):
        truth = teacher(x, t, cond, clock)
    with running(Run(scope="student")):
        said = pupil(x, t, cond, clock)
    kind, L = said.kind if said.kind in KINDS else "x0", said.levels
    target = Prediction(x, L, "velocity", L.da * x0 + L.ds * noise) if kind == "velocity" else Prediction(x, L, "x0", x0)
    features = [(a - taps[1].kept[k]).square().mean() for k, a in taps[0].kept.items()]
    return [(target.get(kind) - said.value).square().mean(), (truth.value - said.value).square().mean(),
            torch.stack(features).mean()]  # fmt: skip
