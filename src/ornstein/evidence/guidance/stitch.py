"""Evidence for T-Stitch: a coarse model in the noisy steps, on exact mixtures and on the shipped digits model."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, Denoises, guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import energy
from ornstein.evidence.backbones._ground import flops, fresh, train
from ornstein.guidance.stitch import Stitch
from ornstein.metrics.accuracy import Accuracy
from ornstein.model import load
from ornstein.processes.flow import Flow
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

SHARE, STEPS, MANY, CHEAP = 0.4, 10, 50, 0.1  # CHEAP: the small mixture counts as so many calls of the large one
CLAIM = (f"With the first {SHARE:.0%} of {STEPS} steps taken by a small model, samples lie nearer to the data than those of the "
         "large model alone in as many FLOPs, and than with the order of the two reversed or shuffled: on exact mixtures, and on "
         "the digits with a network of a hundredth of the FLOPs.")  # fmt: skip
LAW = "energy distance to the exact law (lower)"
DIGITS = "energy distance to held-out digits (lower)"
READ = "share of digits read as asked (higher)"
SMALL = "dit:channels=1,patch=4,width=32,depth=2,heads=2,classes=10"


def mixtures(seed: int) -> tuple[Mixture, Mixture]:
    """Eight narrow Gaussians in two groups (16-D), and one wide Gaussian for each group with its mean and variance."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, 1, 16, generator=source, dtype=torch.float64)
    means = centres + 0.5 * torch.randn(2, 4, 16, generator=source, dtype=torch.float64)
    wide = (means.var(1, unbiased=False) + 0.01).sqrt()
    return Mixture(means.flatten(0, 1), torch.tensor(0.1), Flow()), Mixture(means.mean(1), wide, Flow())


def shuffled(steps: int, seed: int) -> tuple[int, ...]:
    """As many steps of the small model, anywhere."""
    table = [int(k < SHARE * steps) for k in range(steps)]
    random.Random(seed).shuffle(table)
    return tuple(table)


def ways(large: Denoises, small: Denoises, steps: int, cheap: float, seed: int) -> dict[tuple[str, str], tuple[Denoises, int]]:
    """(kind, name) -> denoiser and steps."""
    fewer = math.ceil(steps * (1 - SHARE + SHARE * cheap) - 1e-9)
    return {("method", "small, then large"): (guide(large, Stitch((small,), (SHARE,))), steps),
            ("natural", f"large alone, {steps} steps"): (large, steps),
            ("equal-cost", f"large alone, {fewer} steps"): (large, fewer),
            ("equal-cost", "large, then small"): (guide(small, Stitch((large,), (1 - SHARE,))), steps),
            ("equal-cost", "small, shuffled"): (guide(large, Stitch((small,), table=shuffled(steps, seed))), steps)}  # fmt: skip


def on_mixtures(steps: int, seeds: int, count: int = 800) -> list[Row]:
    rows: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        large, small = mixtures(seed)
        real = large.sample(count, seed=seed + 50)
        for key, (denoiser, n) in ways(large, small, steps, CHEAP, seed).items():
            x = sample(denoiser, (count, 16), DPMpp2M(), n, seed=seed, dtype=torch.float64)
            rows.setdefault(key, []).append(energy(x, real))
    share = 1 - SHARE + SHARE * CHEAP
    return [Row(f"mixtures, {steps} steps: {name}", kind, LAW, v,
                f"{steps * (1 if kind == 'natural' else share):.1f} calls of the large")
            for (kind, name), v in rows.items()]  # fmt: skip


@cache
def small_digits() -> Denoiser:
    """A network of 51 k weights, trained for some seconds."""
    net = fresh(lambda: catalog.build("backbones", SMALL))
    train(net, 300)
    return replace(load("digits").denoiser, backbone=net.eval().requires_grad_(False))


def draw(denoiser: Denoises, steps: int, count: int) -> Tensor:
    """Digits 0 to 9 in turn, [count, 1, 8, 8]."""
    return sample(denoiser, (count, 1, 8, 8), DPMpp2M(), steps, cond={"label": torch.arange(count) % 10}, seed=1)


def on_digits(count: int, groups: int = 4) -> list[Row]:
    large, small = load("digits").denoiser, small_digits()
    cheap, real, rows = flops(small.backbone) / flops(large.backbone), catalog.build("data", "digits:split=test").images(), []
    for (kind, name), (denoiser, n) in ways(large, small, STEPS, cheap, 0).items():
        x = draw(denoiser, n, count)
        parts = x.chunk(groups)
        values = [energy(part.flatten(1), real.flatten(1)) for part in parts]
        hit = [Accuracy()(part.clamp(-1, 1), torch.arange(len(part)) % 10).value for part in parts]
        rows += [Row(f"digits: {name}", kind, DIGITS, values), Row(f"digits: {name}", kind, READ, hit)]
    return rows


def precision() -> list[Row]:
    """A bf16 or int8 copy of the network for some steps: distance to the full-precision run."""
    large, rows, half = load("digits").denoiser, [], tuple(int(k < STEPS // 2) for k in range(STEPS))
    full = draw(large, STEPS, 40)
    makes: dict[str, Callable] = {"bf16": lambda net: copy.deepcopy(net).bfloat16(), "int8": catalog.build("compression", "int8")}
    for name, make in makes.items():
        low = replace(large, backbone=make(large.backbone))
        for where, table in (("first", half), ("last", half[::-1]), ("all", (1,) * STEPS)):
            gap = (draw(guide(large, Stitch((low,), table=table)), STEPS, 40) - full).flatten(1).norm(dim=1)
            rows.append(Row(f"digits: {name} in the {where} steps", "reference", "relative distance to float32 (lower)",
                            (gap / full.flatten(1).norm(dim=1)).view(4, 10).mean(1).tolist()))  # fmt: skip
    return rows


def nearer(one: Row, other: Row) -> bool:
    """On average and in most seeds."""
    return one.mean < other.mean and sum(a < b for a, b in zip(one.values, other.values)) > len(one.values) / 2


def run(quick: bool = True) -> Evidence:
    few, digits = on_mixtures(STEPS, 5), on_digits(120 if quick else 800)
    law = [r for r in digits if r.metric == DIGITS]
    best = [all(nearer(rows[0], r) for r in rows if r.kind == "equal-cost") for rows in (few, law)]
    more = [] if quick else [*on_mixtures(MANY, 5), *precision()]
    note = "The small mixture's cost, a tenth, is assumed; one mixture, or one part of the digits, is one seed."
    return Evidence(CLAIM, [*few, *digits, *more], verdict(all(best), best[0]), note)
