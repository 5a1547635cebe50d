"""Evidence for ensembles: two experts of half the digits each, put together by a gate, by a mean, and by their weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, Denoises, guide
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.backbones._ground import METRIC, flops, init, validate
from ornstein.guidance.ensemble import Ensemble, Gate
from ornstein.losses.pretraining.denoising import Denoising
from ornstein.processes.flow import Flow

CLAIM = ("Two experts, each tuned on half of the digits from one parent, put together by a gate trained for seconds, reach a lower "
         "held-out loss than their mean, than the mean of their weights and than each alone; and than one network of as many "
         "FLOPs trained on all digits for as many steps in all.")  # fmt: skip
SMALL = "dit:channels=1,patch=4,width={width},depth=2,heads=2,classes=10"
PARENT, TUNE, GATE, BATCH = 70, 50, 50, 32


def fit(denoiser: Denoises, parameters: Iterable[nn.Parameter], digits: Sequence[int], steps: int, source: torch.Generator,
        rate: float = 2e-3) -> None:  # fmt: skip
    """The denoising loss on these digits alone; a warm-up of 20 steps, then down to nothing."""
    data, loss = catalog.build("data", "digits"), Denoising(time="logit-normal")
    images, labels = data.images(), data.labels
    pool = torch.isin(labels, torch.tensor(digits)).nonzero()[:, 0]
    chooser = torch.optim.AdamW(parameters, rate)
    with torch.enable_grad():
        for step in range(steps):
            chooser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
            rows = pool[torch.randint(len(pool), (BATCH,), generator=source)]
            chooser.zero_grad()
            loss(denoiser, {"x0": images[rows], "cond": {"label": labels[rows]}}, source, step)["loss"].backward()
            chooser.step()


def network(width: int, source: torch.Generator) -> Denoiser:
    net = catalog.build("backbones", SMALL.format(width=width))
    init(net, source)
    return Denoiser(net, Flow())


def tuned(parent: Denoiser, digits: Sequence[int], source: torch.Generator) -> Denoiser:
    """A copy of the parent that has seen only these digits since."""
    child = copy.deepcopy(parent)
    fit(child, child.backbone.parameters(), digits, TUNE, source)
    child.backbone.requires_grad_(False)
    return child


def loss_of(denoiser: Denoises) -> float:
    def said(x: Tensor, t: Tensor, cond: dict) -> Tensor:
        return denoiser(x, t, cond).velocity

    return validate(said)


def one_seed(seed: int) -> dict[tuple[str, str], float]:
    source = torch.Generator().manual_seed(seed)
    parent = network(24, source)
    fit(parent, parent.backbone.parameters(), range(10), PARENT, source)
    low, high = (tuned(parent, digits, source) for digits in (range(5), range(5, 10)))
    torch.manual_seed(seed)
    gate = Gate(1, 2, 16)
    init(gate, source)
    gated = guide(low, Ensemble((high,), gate=gate))
    fit(gated, gate.parameters(), range(10), GATE, source, 5e-3)
    averaged = copy.deepcopy(low)
    for p, q in zip(averaged.backbone.parameters(), high.backbone.parameters()):
        p.lerp_(q, 0.5)
    one = network(32, source)
    fit(one, one.backbone.parameters(), range(10), PARENT + 2 * TUNE + GATE, source)
    ratio = flops(one.backbone) / (2 * flops(low.backbone))
    return {("method", "gate"): loss_of(gated), ("natural", "mean of the answers"): loss_of(guide(low, Ensemble((high,), (0.5,)))),
            ("natural", "mean of the weights"): loss_of(averaged), ("reference", "expert of 0 to 4"): loss_of(low),
            ("reference", "expert of 5 to 9"): loss_of(high), ("reference", "parent"): loss_of(parent),
            ("equal-cost", f"one network, {ratio:.2f} times the FLOPs of both"): loss_of(one)}  # fmt: skip


def run(quick: bool = True) -> Evidence:
    seeds = [one_seed(seed) for seed in range(3 if quick else 8)]
    rows = [Row(name, kind, METRIC, [s[kind, name] for s in seeds]) for kind, name in seeds[0]]
    method, equal = rows[0], rows[-1]
    parts = all(a < b for r in rows[1:-1] for a, b in zip(method.values, r.values))
    return Evidence(CLAIM, rows, verdict(parts and method.mean < equal.mean, parts))
