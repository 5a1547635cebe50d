"""Evidence for LoRA: the shipped digits model learns mirrored digits, at equal steps, in float and on top of int8."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.adapters.lora import LoRA
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._adam import Adam
from ornstein.model import Model, load

CLAIM = ("In equal steps a LoRA of rank 4, with a twentieth of the parameters, makes at least 80 % of the progress of "
         "full fine-tuning on digits turned by 90 degrees, and more than as many weights of one layer; on int8 too, in "
         "one seed.")  # fmt: skip
GAIN = "share of the loss gap to full fine-tuning closed on held-out digits (higher)"
ROLES = ("qkv", "attention_out", "ffn")


def run(quick: bool = True) -> Evidence:
    """Batches of 16 turned digits, AdamW at a rate that suits each arm; held-out loss at 4 fixed times and noises."""
    model, seeds, steps = load("digits"), range(3 if quick else 5), 10 if quick else 200
    train, test = (catalog.build("data", "digits", split=s) for s in ("train", "test"))
    data = _turned(train.images()), train.labels
    held = _turned(test.images(range(48))), test.labels[:48]
    before, closed, count = _loss(model, model.backbone, held), {}, {}
    for seed in seeds:
        loss = {}
        for name, arm in ARMS.items():
            if quick and (name == "biases" or (name == "LoRA on int8" and seed)):
                continue
            net, parameters, rate = arm(model.backbone, seed)
            count[name] = sum(p.numel() for p in parameters)
            loss[name] = _loss(model, _trained(model, net, parameters, rate, data, steps, seed), held)
        for name, value in loss.items():
            closed.setdefault(name, []).append((before - value) / (before - loss["full fine-tuning"]))
    kinds = {"full fine-tuning": "natural", "LoRA": "method", "LoRA on int8": "method", "one attention": "equal-cost",
             "biases": "reference"}  # fmt: skip
    rows = [Row(n, k, GAIN, closed[n], f"{count[n]} parameters, {steps} steps") for n, k in kinds.items() if n in closed]
    rows.append(Row("before", "floor", "held-out velocity loss (lower)", [before]))
    arms = (closed["LoRA"], closed["LoRA on int8"])
    most = all(min(c) >= 0.8 for c in arms) and count["LoRA"] <= 0.06 * count["full fine-tuning"]
    better = all(a > b for c in arms for a, b in zip(c, closed["one attention"]))
    note = "Each arm has one fixed learning rate, chosen beforehand."
    return Evidence(CLAIM, rows, verdict(most and better, most or better), note)


def _full(net: nn.Module, seed: int) -> tuple[nn.Module, list, float]:
    net = deepcopy(net).requires_grad_(True)
    return net, list(net.parameters()), 2e-3


def _lora(net: nn.Module, seed: int) -> tuple[nn.Module, list, float]:
    net = deepcopy(net)
    return net, list(LoRA(4, 8.0, ROLES, seed=seed)(net).parameters()), 1e-2


def _lora_int8(net: nn.Module, seed: int) -> tuple[nn.Module, list, float]:
    net = catalog.build("compression", "int8", roles=ROLES, min_size=1)(net)
    return net, list(LoRA(4, 8.0, ROLES, seed=seed)(net).parameters()), 1e-2


def _biases(net: nn.Module, seed: int) -> tuple[nn.Module, list, float]:
    net = deepcopy(net).requires_grad_(False)
    chosen = [p.requires_grad_(True) for n, p in net.named_parameters() if n.endswith("bias")]
    return net, chosen, 2e-2


def _one(net: nn.Module, seed: int) -> tuple[nn.Module, list, float]:
    net = deepcopy(net).requires_grad_(False)
    return net, list(net.blocks[0].attn.requires_grad_(True).parameters()), 1e-2


def _trained(model: Model, net: nn.Module, parameters: list, rate: float, data: tuple[Tensor, Tensor], steps: int,
             seed: int) -> nn.Module:  # fmt: skip
    denoiser, loss = replace(model.denoiser, backbone=net), catalog.build("losses", "denoising")
    optimiser = Adam(parameters, rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        pick = torch.randint(len(data[0]), (16,), generator=generator)
        batch: dict[str, Any] = {"x0": data[0][pick], "cond": {"label": data[1][pick]}}
        loss(denoiser, batch, generator, step)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    return net


ARMS = {"full fine-tuning": _full, "LoRA": _lora, "LoRA on int8": _lora_int8, "one attention": _one, "biases": _biases}


@torch.no_grad()
def _loss(model: Model, net: nn.Module, held: tuple[Tensor, Tensor]) -> float:
    denoiser, loss = replace(model.denoiser, backbone=net), catalog.build("losses", "denoising")
    noise = torch.randn(held[0].shape, generator=torch.Generator().manual_seed(1))
    batch = {"x0": held[0], "cond": {"label": held[1]}, "noise": noise}
    values = [loss(denoiser, batch | {"t": torch.full((len(noise),), t)})["loss"] for t in (0.2, 0.4, 0.6, 0.8)]
    return torch.stack(values).mean().item()


def _turned(images: Tensor) -> Tensor:
    return images.rot90(1, (2, 3))
