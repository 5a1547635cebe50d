"""Evidence for adaptive feature aggregation: two networks tuned on halves of the digits, merged inside or outside."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, Denoises, guide
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.backbones._ground import flops, init
from ornstein.evidence.guidance.ensemble import fit, fresh
from ornstein.guidance.aggregation import Aggregation, aggregated
from ornstein.guidance.ensemble import Ensemble
from ornstein.processes.flow import Flow

NET = "dit:channels=1,patch={patch},width=32,depth=3,heads=2,classes=10"
LOSS = "flow-matching loss on held-out digits at 4 times (lower)"
CLAIM = ("Of two DiTs tuned from one parent on the digits 0 to 4 and 5 to 9, aggregation after every block, its weights trained "
         "for seconds, has a lower held-out loss on all digits than the mean of the answers, a gate at the output that is trained "
         "as long, the mean of the weights, and the better of the two.")  # fmt: skip


def tuned(parent: Denoiser, digits: Sequence[int], steps: int, source: torch.Generator) -> Denoiser:
    """A copy of the parent that sees only these digits."""
    child = copy.deepcopy(parent)
    fit(child, child.backbone.requires_grad_(True).parameters(), digits, steps, source)
    child.backbone.requires_grad_(False)
    return child


def born(steps: int, patch: int) -> Denoiser:
    net, source = catalog.build("backbones", NET.format(patch=patch)), torch.Generator().manual_seed(100)
    init(net, source)
    parent = Denoiser(net, Flow())
    fit(parent, net.parameters(), range(10), steps, source)
    return parent


@torch.no_grad()
def loss_of(denoiser: Denoises) -> float:
    """The same noise for every network; 160 digits of all classes."""
    data, source, total = catalog.build("data", "digits:split=test"), torch.Generator().manual_seed(99), 0.0
    x0, cond = data.images()[:160], {"label": data.labels[:160]}
    for t in (0.15, 0.4, 0.65, 0.9):
        n = torch.randn(x0.shape, generator=source)
        total += (denoiser((1 - t) * x0 + t * n, t, cond).velocity - (n - x0)).square().mean().item() / 4
    return total


def tried(parent: Denoiser, tune: int, learn: int, seed: int, more: bool) -> dict[tuple[str, str], tuple[float, float]]:
    """(kind, name) -> held-out loss, and FLOPs over those of one network."""
    source = torch.Generator().manual_seed(seed)
    low, high = (tuned(parent, digits, tune, source) for digits in (range(5), range(5, 10)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inside = aggregated((low, high))
    merged = guide(low, Aggregation(inside))
    fit(merged, [p for p in inside.parameters() if p.requires_grad], range(10), learn, source, 5e-3)
    gate = fresh(seed)
    outside = guide(low, Ensemble((high,), gate=gate))
    fit(outside, gate.parameters(), range(10), learn, source, 5e-3)
    soup = copy.deepcopy(low)
    for p, q in zip(soup.backbone.parameters(), high.backbone.parameters()):
        p.data.lerp_(q, 0.5)
    each, both = flops(low.backbone), flops(inside)
    found = {("method", "aggregation"): (loss_of(merged), both / each),
            ("equal-cost", "mean of the answers"): (loss_of(guide(low, Ensemble((high,), (0.5,)))), 2.0),
            ("equal-cost", "gate at the output"): (loss_of(outside), 2.0),
            ("natural", "better of the two"): (min(loss_of(low), loss_of(high)), 1.0),
            ("natural", "mean of the weights"): (loss_of(soup), 1.0),
            ("reference", "parent"): (loss_of(parent), 1.0)}  # fmt: skip
    if more:
        longer = tuned(parent, range(10), 2 * tune + learn, source)
        found["reference", "aggregation, not trained: even features"] = (
            loss_of(guide(low, Aggregation(aggregated((low, high))))), both / each)  # fmt: skip
        found["reference", "parent, trained as many updates on all digits"] = loss_of(longer), 1.0
    return found


def run(quick: bool = True) -> Evidence:
    parent, tune, learn = (born(200, 4), 30, 60) if quick else (born(1000, 2), 300, 200)
    seeds = [tried(parent, tune, learn, seed, not quick) for seed in range(3)]
    rows = [Row(name, kind, LOSS, [s[kind, name][0] for s in seeds], f"{seeds[0][kind, name][1]:.2f} networks")
            for kind, name in seeds[0]]  # fmt: skip
    against = ("mean of the answers", "gate at the output", "better of the two", "mean of the weights")
    won = {n: all(a < b for a, b in zip(rows[0].values, next(r for r in rows if r.name == n).values)) for n in against}
    note = f"One parent of {200 if quick else 1000} updates; two copies tuned for {tune}, gates for {learn}; a seed is a tuning."
    return Evidence(CLAIM, rows, verdict(all(won.values()), won["mean of the answers"] and won["better of the two"]), note)
