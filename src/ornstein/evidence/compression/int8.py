"""Evidence for int8: how far the samples of the shipped digits model move, at which bytes, and how fast a layer is."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from ornstein.compression.int8 import Int8, Int8Linear
from ornstein.compression.layers.swap import stored_bytes
from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.model import Model, load

CLAIM = ("One scale per output channel moves the samples less than one per tensor at the same bytes and arithmetic, "
         "and 'weights' (a quarter of each layer's bytes) moves them less than bfloat16 (half) does.")  # fmt: skip
MOVED = "RMS distance of samples to float32's (lower)"


def run(quick: bool = True) -> Evidence:
    """Digits DiT, 8 steps, 16 samples a seed, one noise for all variants; one layer timed at 2048 x 384 x 1536."""
    model, seeds = load("digits"), range(3 if quick else 10)
    net, roles = model.backbone, ("qkv", "attention_out", "ffn", "temporal")
    part = Int8(roles=roles, skip=("time.*",), min_size=2048)
    quarter = part(net)
    nets = {
        "int8 'weights'": ("method", quarter),
        "int8 'dynamic'": ("method", replace(part, mode="dynamic")(net)),
        "int8 'weights', one scale per tensor": ("equal-cost", _per_tensor(quarter)),
        "int8 'dynamic', one scale per tensor": ("equal-cost", _per_tensor(replace(part, mode="dynamic")(net))),
        "bfloat16 weights": ("natural", _rounded(net)),
    }
    want = [_draw(model, net, s) for s in seeds]
    moved = {n: [(_draw(model, v, s) - w).square().mean().sqrt().item() for s, w in zip(seeds, want)]
             for n, (_, v) in nets.items()}  # fmt: skip
    size = {n: stored_bytes(v) // (2 if n.startswith("bf") else 1) for n, (_, v) in nets.items()}
    whole = f"{stored_bytes(net) / 1e6:.2f} MB"
    rows = [Row(n, kind, MOVED, moved[n], f"{size[n] / 1e6:.2f} of {whole}") for n, (kind, _) in nets.items()]
    rows += _speeds(3 if quick else 20)
    pairs = [(moved[f"int8 '{m}'"], moved[f"int8 '{m}', one scale per tensor"]) for m in ("weights", "dynamic")]
    finer = all(a < b for ours, theirs in pairs for a, b in zip(ours, theirs))
    beats = all(a < b for a, b in zip(moved["int8 'weights'"], moved["bfloat16 weights"]))
    return Evidence(CLAIM, rows, verdict(finer and beats, finer or beats),
                    "Milliseconds depend on the machine and are no part of the verdict.")  # fmt: skip


def _draw(model: Model, net: nn.Module, seed: int) -> Tensor:
    cond, solver = model.encode([str(i % 10) for i in range(16)]), catalog.build("solvers", "ddim")
    return sample(replace(model.denoiser, backbone=net), (16, *model.shape), solver, 8, cond=cond, seed=seed)


@torch.no_grad()
def _per_tensor(net: nn.Module) -> nn.Module:
    """The same int8 layers with the largest scale of each tensor in every channel."""
    net = deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, Int8Linear):
            weight, scale = layer.dequantised(), layer.scale.max()
            layer.weight_int8.copy_((weight / scale).round())
            layer.scale.fill_(scale)
    return net


@torch.no_grad()
def _rounded(net: nn.Module) -> nn.Module:
    """Weights rounded to bfloat16, arithmetic in float32: the error of storing half the bytes, and no other."""
    net = deepcopy(net)
    for p in net.parameters():
        p.copy_(p.bfloat16())
    return net


def _speeds(trials: int) -> list[Row]:
    layer = nn.Linear(384, 1536)
    x, half = torch.randn(2048, 384), deepcopy(layer).bfloat16()
    calls: dict[str, Callable] = {"float32": lambda: layer(x), "bfloat16": lambda: half(x.bfloat16()),
                                  "int8 'weights'": lambda w=Int8Linear(layer): w(x),
                                  "int8 'dynamic'": lambda d=Int8Linear(layer, dynamic=True): d(x)}  # fmt: skip
    rows = []
    with torch.inference_mode():
        for name, call in calls.items():
            best = min(_seconds(call) for _ in range(trials))
            kind = "method" if "int8" in name else "natural"
            rows.append(Row(name, kind, "ms for Linear(384, 1536) on 2048 tokens (lower)", [best * 1e3]))
    return rows


def _seconds(call: Callable) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
