"""Evidence for ensembles: two experts that each know half of the data, put together by a gate and by a mean."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, Denoises, guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._adam import Adam
from ornstein.evidence._laws import energy
from ornstein.evidence.backbones._ground import METRIC, flops, init, validate
from ornstein.evidence.backbones._ground import fresh as seeded
from ornstein.guidance.ensemble import Ensemble, Gate
from ornstein.losses.pretraining.denoising import Denoising
from ornstein.processes.flow import Flow
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

CLAIM = ("Of two experts on an exact mixture, each of which knows half of the components and has one wide Gaussian for the rest, "
         "a gate trained for seconds is nearer to the exact denoiser than their mean and than each alone, and its samples are "
         "nearer to the law than those of the mean with as many steps and of each expert with twice as many.")  # fmt: skip
ERROR = "squared error of x0 to the exact denoiser, mean over 8 levels (lower)"
LAW = "energy distance to the exact law (lower)"
STEPS = 12
SMALL = "dit:channels=1,patch=4,width={width},depth=2,heads=2,classes=10"
PARENT, TUNE, GATE, BATCH = 100, 100, 100, 32


def fit(denoiser: Denoises, parameters: Iterable[nn.Parameter], digits: Sequence[int], steps: int, source: torch.Generator,
        rate: float = 2e-3) -> None:  # fmt: skip
    """The denoising loss on these digits alone; a warm-up of 20 steps, then down to nothing."""
    data, loss = catalog.build("data", "digits"), Denoising(time="logit-normal")
    images, labels = data.images(), data.labels
    pool = torch.isin(labels, torch.tensor(digits)).nonzero()[:, 0]
    chooser = Adam(parameters, rate, decay=0.01)
    with torch.enable_grad():
        for step in range(steps):
            chooser.lr = rate * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
            rows = pool[torch.randint(len(pool), (BATCH,), generator=source)]
            chooser.zero_grad()
            loss(denoiser, {"x0": images[rows], "cond": {"label": labels[rows]}}, source, step)["loss"].backward()
            chooser.step()


def network(width: int, source: torch.Generator) -> Denoiser:
    net = seeded(lambda: catalog.build("backbones", SMALL.format(width=width)))
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


def on_digits(seed: int) -> dict[tuple[str, str], float]:
    """Held-out losses of two experts tuned from one parent, of their ensembles, and of one larger network."""
    source = torch.Generator().manual_seed(seed)
    parent = network(24, source)
    fit(parent, parent.backbone.parameters(), range(10), PARENT, source)
    low, high = (tuned(parent, digits, source) for digits in (range(5), range(5, 10)))
    gate = fresh(seed)
    gated = guide(low, Ensemble((high,), gate=gate))
    fit(gated, gate.parameters(), range(10), GATE, source, 5e-3)
    averaged = copy.deepcopy(low)
    for p, q in zip(averaged.backbone.parameters(), high.backbone.parameters()):
        p.lerp_(q, 0.5)
    one = network(40, source)
    fit(one, one.backbone.parameters(), range(10), PARENT + 2 * TUNE + GATE, source)
    ratio = flops(one.backbone) / (2 * flops(low.backbone))
    mean = guide(low, Ensemble((high,), (0.5,)))
    return {("reference", "gate"): loss_of(gated), ("reference", "mean of the answers"): loss_of(mean),
            ("reference", "mean of the weights"): loss_of(averaged), ("reference", "expert of 0 to 4"): loss_of(low),
            ("reference", "expert of 5 to 9"): loss_of(high), ("reference", "parent"): loss_of(parent),
            ("equal-cost", f"one network, {ratio:.2f} times the FLOPs of both"): loss_of(one)}  # fmt: skip


def fresh(seed: int) -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Gate(1, 2, 16)


def bed(seed: int) -> tuple[Mixture, Mixture, Mixture]:
    """The exact denoiser of eight Gaussians (4x4 images), and two that know four of them each."""
    whole = Mixture.random(Flow(), 16, 8, 0.2, seed)
    share = whole.weights.view(2, 4, 1)
    mean = (share * whole.means.view(2, 4, 16)).sum(1) / share.sum(1)
    var = (share * (whole.stds**2 + whole.means**2).view(2, 4, 16)).sum(1) / share.sum(1) - mean**2
    def expert(known: int) -> Mixture:
        rows, rest = slice(4 * known, 4 * known + 4), 1 - known
        pairs = ((whole.means, mean), (whole.stds, var.sqrt()), (whole.weights, share.sum((1, 2))))
        means, stds, weights = (torch.cat([exact[rows], wide[rest][None]]) for exact, wide in pairs)
        return Mixture(means, stds, Flow(), weights)

    return whole, expert(0), expert(1)


def trained(whole: Mixture, one: Denoises, other: Denoises, seed: int, steps: int = 250) -> Denoises:
    """The gate alone learns, by the denoising loss on samples."""
    source, loss = torch.Generator().manual_seed(seed), Denoising(target="x0")
    gate, data = fresh(seed), whole.sample(4096, seed=seed + 100).float().view(-1, 1, 4, 4)
    both = guide(one, Ensemble((other,), gate=gate))
    chooser = Adam(gate.parameters(), 1e-2, decay=0.01)
    with torch.enable_grad():
        for step in range(steps):
            chooser.lr = 1e-2 * (1 - step / steps)
            chooser.zero_grad()
            rows = torch.randint(len(data), (128,), generator=source)
            loss(both, {"x0": data[rows], "cond": None}, source, step)["loss"].backward()
            chooser.step()
    gate.requires_grad_(False)
    return both


def error(denoiser: Denoises, whole: Mixture, seed: int, count: int = 400) -> float:
    source, total = torch.Generator().manual_seed(seed + 7), 0.0
    x0 = whole.sample(count, seed=seed + 200).float().view(-1, 1, 4, 4)
    for k in range(8):
        t = (k + 0.5) / 8
        x = whole.process.corrupt(x0, torch.randn(x0.shape, generator=source), t)
        total += (denoiser(x, t).x0 - whole(x, t).x0).square().mean().item() / 8
    return total


def run(quick: bool = True) -> Evidence:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(3 if quick else 6):
        whole, one, other = bed(seed)
        real = whole.sample(800, seed=seed + 50)
        tried = {("method", "gate", STEPS): trained(whole, one, other, seed),
                 ("equal-cost", "mean of both", STEPS): guide(one, Ensemble((other,), (0.5,))),
                 ("equal-cost", "expert of the first half", 2 * STEPS): one,
                 ("equal-cost", "expert of the second half", 2 * STEPS): other, ("floor", "exact", STEPS): whole}  # fmt: skip
        for (kind, name, steps), denoiser in tried.items():
            x = sample(denoiser, (800, 1, 4, 4), DPMpp2M(), steps, seed=seed)
            both = error(denoiser, whole, seed), energy(x.flatten(1), real)
            found.setdefault((kind, f"{name}, {steps} steps"), []).append(both)
    rows = [Row(name, kind, metric, [v[k] for v in values])
            for k, metric in enumerate((ERROR, LAW)) for (kind, name), values in found.items()]  # fmt: skip
    near, law = (all(a < b for r in rows if r.metric == m and r.kind == "equal-cost" for a, b in zip(mine.values, r.values))
                 for m, mine in ((ERROR, rows[0]), (LAW, next(r for r in rows if r.metric == LAW))))  # fmt: skip
    if not quick:
        seeds = [on_digits(seed) for seed in range(3)]
        rows += [Row(f"digits: {name}", kind, METRIC, [s[kind, name] for s in seeds]) for kind, name in seeds[0]]
    return Evidence(CLAIM, rows, verdict(near and law, near))
