"""Evidence for TD-LoRA: the digits DiT narrowed by DyDiT's routers learns again what the whole one says."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.acceleration.dydit import DyDiT
from ornstein.acceleration.layers.router import Lesson
from ornstein.adapters.td_lora import TDLoRA
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, running
from ornstein.evidence import Evidence, Row, verdict
from ornstein.model import load

RANK, EXPERTS = 4, 3
ROLES = ("qkv", "attention_out", "temporal")  # an adapter of an mlp needs its whole width
CLAIM = (f"In equal updates of distillation to the whole network, a TD-LoRA of {EXPERTS} experts takes away more of the error of "
         "the digits DiT narrowed by DyDiT's routers than a LoRA of at least as many parameters on the same layers, and at least "
         "half as much as fine-tuning all weights.")  # fmt: skip
ERROR = "squared error to the whole network over that before, held-out digits at 8 times (lower)"
WALK = "relative distance to the whole network's samples, ddim with 10 steps (lower)"
RATES = {"td-lora": 2e-3, "lora": 2e-3, "full fine-tuning": 1e-4}


def arms(net: nn.Module, seed: int) -> dict[str, tuple[nn.Module, list[nn.Parameter]]]:
    """Name -> a copy of the network and what trains of it. LoRA is the adapter of one expert, of the next larger rank."""
    found = {}
    timed = deepcopy(net)
    handle = TDLoRA(RANK, 2.0 * RANK, EXPERTS, ROLES, seed=seed)(timed)
    found["td-lora"] = timed, list(handle.parameters())
    size, plain = sum(p.numel() for p in handle.parameters()), deepcopy(net)
    each = sum(pair.layer.in_features + pair.layer.out_features for pair in handle.pairs)
    rank = math.ceil(size / each)
    found["lora"] = plain, list(TDLoRA(rank, 2.0 * rank, 1, ROLES, seed=seed)(plain).parameters())
    whole = deepcopy(net).requires_grad_(True)
    found["full fine-tuning"] = whole, list(whole.parameters())
    return found


def narrow_says(denoiser: Denoiser, lesson: Lesson, x: Tensor, t: Tensor, cond: dict) -> Tensor:
    """The narrowed network's answer; every width is computed and masked, so that it has a gradient."""
    lesson.costs.clear()
    with running(Run()):
        return denoiser(x, t, cond, Clock(t=t, ids=tuple(range(len(x))))).value


def trained(denoiser: Denoiser, whole: Denoiser, routers: Artefact, parameters: list, rate: float, updates: int, seed: int) -> None:
    """AdamW on |narrow - whole|^2 over noisy training digits, batches of 12; the rate falls along a cosine."""
    data, source = catalog.build("data", "digits"), torch.Generator().manual_seed(seed)
    adam, lesson = torch.optim.AdamW(parameters, rate, weight_decay=0.0), Lesson()
    detach = attach(denoiser.backbone, DyDiT(routers, lesson=lesson))
    for k in range(updates):
        adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * k / updates)) / 2
        rows = torch.randint(len(data.labels), (12,), generator=source)
        x0, cond = data.images()[rows], {"label": data.labels[rows]}
        t = torch.rand(12, generator=source)
        x = denoiser.process.corrupt(x0, torch.randn(x0.shape, generator=source), t)
        with torch.no_grad():
            said = whole(x, t, cond).value
        with torch.enable_grad():
            (narrow_says(denoiser, lesson, x, t, cond) - said).square().mean().backward()
        adam.step()
        adam.zero_grad()
    detach()


@torch.no_grad()
def error(denoiser: Denoiser, whole: Denoiser, routers: Artefact) -> float:
    """Mean square by which the narrowed network differs from the whole one on held-out digits, at 8 times."""
    data, lesson = catalog.build("data", "digits:split=test"), Lesson()
    x0, cond = data.images()[:64], {"label": data.labels[:64]}
    t = (torch.arange(64) % 8 + 0.5) / 8
    x = denoiser.process.corrupt(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), t)
    detach = attach(denoiser.backbone, DyDiT(routers, lesson=lesson))
    try:
        return (narrow_says(denoiser, lesson, x, t, cond) - whole(x, t, cond).value).square().mean().item()
    finally:
        detach()


@torch.no_grad()
def walk(denoiser: Denoiser, plugin: Any = None) -> Tensor:
    """Ten digits, with slim weights where there is a plugin."""
    detach = attach(denoiser.backbone, plugin) if plugin else (lambda: None)
    try:
        return sample(denoiser, (10, 1, 8, 8), catalog.build("solvers", "ddim"), 10, cond={"label": torch.arange(10)}, seed=3)
    finally:
        detach()


def run(quick: bool = True) -> Evidence:
    whole = load("digits").denoiser
    routers = Artefact.load(catalog.ROOT / "models" / "digits" / "dydit.safetensors", "dydit").check(whole)
    updates, found, moved, count = 10 if quick else 100, {}, {}, {}
    before, truth = error(whole, whole, routers), None if quick else walk(whole)
    distance = lambda d: float((walk(d, DyDiT(routers)) - truth).norm() / truth.norm())  # noqa: E731
    for seed in range(3):
        for name, (net, parameters) in arms(whole.backbone, seed).items():
            denoiser = replace(whole, backbone=net)
            trained(denoiser, whole, routers, parameters, RATES[name], updates, seed)
            net.requires_grad_(False)
            found.setdefault(name, []).append(error(denoiser, whole, routers) / before)
            moved.setdefault(name, []).extend([] if quick else [distance(denoiser)])
            count[name] = sum(p.numel() for p in parameters)
    kinds = {"td-lora": "method", "lora": "equal-cost", "full fine-tuning": "natural"}
    rows = [Row(n, kinds[n], metric, values[n], f"{count[n]} parameters, {updates} updates")
            for metric, values in ((ERROR, found), (WALK, moved))[: 1 if quick else 2] for n in kinds]  # fmt: skip
    rows += [] if quick else [Row("narrowed, not trained", "reference", WALK, [distance(whole)])]
    timed, plain, full = found["td-lora"], found["lora"], found["full fine-tuning"]
    more = sum(timed) < sum(plain) and sum(a < b for a, b in zip(timed, plain)) > len(timed) / 2
    half = all(1 - a >= (1 - b) / 2 for a, b in zip(timed, full)) and sum(timed) < len(timed)
    note = (f"Held-out squared error of the narrowed network before: {before:.4f}. Each arm has one learning rate, chosen on "
            "a seed that is not here.")  # fmt: skip
    return Evidence(CLAIM, rows, verdict(more and half, more or half), note)
