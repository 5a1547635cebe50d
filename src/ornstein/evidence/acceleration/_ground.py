"""The common ground of the accelerations' evidence: a digits model, runs with their FLOPs, and what else these buy.

The shipped digits models serve where they are; elsewhere a small one is trained for some seconds, and the note says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Row
from ornstein.evidence._flops import Flops
from ornstein.evidence.backbones._ground import fresh, train

SEEDS, EACH, STEPS, MANY = 4, 4, 40, 80
FULL = f"relative distance to the full {STEPS}-step run (lower)"
TRUE = f"relative distance to the solved equation, dpmpp2m with {MANY} steps (lower)"
SMALL = {"dit": "dit:channels=1,patch=2,width=64,depth=6,heads=4,classes=10",
         "unet": "unet:channels=1,width=16,multipliers=(1,2),classes=10"}  # fmt: skip


@cache
def model(backbone: str) -> tuple[Denoiser, str]:
    """The denoiser, and one sentence that says what it is."""
    if (catalog.ROOT / "models" / "digits" / f"{backbone}.safetensors").is_file():
        from ornstein.model import load

        name = "digits" if backbone == "dit" else "digits-unet"
        return load(name).denoiser, f"The model is the shipped '{name}'."
    net = fresh(lambda: catalog.build("backbones", SMALL[backbone]))
    train(net, 150)
    net.eval().requires_grad_(False)
    return Denoiser(net, catalog.build("processes", "flow")), "The model was trained for 150 steps here."


@dataclass(frozen=True)
class Drawn:
    """x [SEEDS * EACH, ...]; evaluations: FLOPs of the run over those of one full evaluation; record of the run."""

    x: Tensor
    evaluations: float
    record: Any


def draw(backbone: str, plugin: Any = None, steps: int = STEPS, solver: str = "ddim") -> Drawn:
    """One run of all seeds, with the plugin (a text or a part) attached."""
    return _draw(backbone, plugin, steps, solver)


@cache
def plain(backbone: str, steps: int, solver: str = "ddim", interval: int = 1) -> Drawn:
    """A run that many compare with, drawn once: without a plugin, or with the plain cache."""
    return _draw(backbone, Reuse(interval) if interval > 1 else None, steps, solver)


def _draw(backbone: str, plugin: Any, steps: int, solver: str) -> Drawn:
    denoiser, run, n = model(backbone)[0], Run(), SEEDS * EACH
    detach = attach(denoiser.backbone, catalog.build("acceleration", plugin)) if plugin else (lambda: None)
    try:
        x = sample(denoiser, (n, 1, 8, 8), catalog.build("solvers", solver), steps, run=run,
                   cond={"label": torch.arange(n) % 10}, seed=[k // EACH for k in range(n)])  # fmt: skip
    finally:
        detach()
    return Drawn(x, evaluations(backbone, run.record), run.record)


def evaluations(backbone: str, record: Any) -> float:
    """What the record says was computed, in full evaluations of all samples, by the FLOPs of each site."""
    shares, done = flops(backbone), float(record.calls["evaluations"])
    return done - sum((asked - record.computed_at[k]) * shares[k.split("/")[0]] for k, asked in record.asked_at.items())


@cache
def flops(backbone: str) -> dict[str, float]:
    """Module path ('' is the network) -> its share of the FLOPs of one evaluation."""
    net, name = model(backbone)[0].backbone, type(model(backbone)[0].backbone).__name__
    with Flops() as counted, torch.no_grad():
        net(torch.zeros(2, 1, 8, 8), torch.ones(2), {"label": torch.zeros(2, dtype=torch.long)})
    found = {k.removeprefix(name).removeprefix("."): v for k, v in counted.found.items()}
    return {k: found.get(k, 0) / counted.total for k, _ in net.named_modules()}


@cache
def reference(backbone: str, true: bool) -> Tensor:
    return plain(backbone, *((MANY, "dpmpp2m") if true else (STEPS,))).x


def distances(backbone: str, x: Tensor, true: bool = False) -> list[float]:
    """Relative L2 distance to the full run, or to the solved equation, one per seed."""
    truth = reference(backbone, true)
    gap = (x - truth).reshape(SEEDS, -1).norm(dim=1) / truth.reshape(SEEDS, -1).norm(dim=1)
    return gap.tolist()


@dataclass(frozen=True)
class Reuse:
    """The plain cache: the network's last answer, kept for `interval` evaluations; a fraction spreads them evenly."""

    interval: int | Fraction
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def select(self, sites: Sequence[Any]) -> list[Any]:
        return [s for s in sites if s.grain == "network"]

    def start(self) -> dict[str, Any]:
        return {"calls": 0}

    def around(self, site: Any, clock: Any, streams: Any, run: Any, memory: dict) -> Any:
        k, memory["calls"] = memory["calls"], memory["calls"] + 1
        if -k // self.interval > -(k + 1) // self.interval:  # k is the whole part of a multiple of the interval
            memory["out"] = run(streams)
        return memory["out"]


def compare(backbone: str, plugins: Sequence[str]) -> dict[str, list[Row]]:
    """For each setting, its row and the rows of what as many FLOPs buy otherwise (rounded up, in their favour)."""
    found = {}
    for text in plugins:
        drawn = draw(backbone, text)
        n = math.ceil(drawn.evaluations - 0.01)
        cost = f"{drawn.evaluations:.1f} evaluations of {STEPS}"
        others = (("natural", f"ddim, {n} steps", plain(backbone, n)),
                  ("equal-cost", f"dpmpp2m, {n} steps", plain(backbone, n, "dpmpp2m")),
                  ("equal-cost", f"output kept for {math.ceil(STEPS / n)}", plain(backbone, STEPS, interval=math.ceil(STEPS / n))))
        lines = [("method", text, drawn, cost), *((k, f"{name}, beside {text}", d, f"{d.evaluations:.1f} evaluations")
                                                  for k, name, d in others)]  # fmt: skip
        found[text] = [Row(name, kind, metric, distances(backbone, d.x, true), c) for kind, name, d, c in lines
                       for metric, true in ((FULL, False), (TRUE, True))]  # fmt: skip
    return found


def better(rows: Sequence[Row], than: str) -> bool:
    """In FULL, the method's mean lies below that of the baseline whose name begins so, and in most seeds too."""
    mine, theirs = rows[0], next(r for r in rows if r.name.startswith(than) and r.metric == FULL)
    wins = sum(a < b for a, b in zip(mine.values, theirs.values))
    return mine.mean < theirs.mean and wins > len(mine.values) / 2


def seconds(backbone: str, plugin: str) -> list[Row]:
    """Wall-clock of a larger random network, full and with the plugin; the least of two tries."""
    spec = {"dit": "dit:channels=4,patch=2,width=192,depth=10,heads=4",
            "unet": "unet:channels=4,width=32,multipliers=(1,2,4),blocks=1"}[backbone]  # fmt: skip
    source = torch.Generator().manual_seed(1)
    net = catalog.build("backbones", spec).eval().requires_grad_(False)
    for key, parameter in net.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=source) * (0.01 if key.startswith("time") else 0.03))
    denoiser, rows = Denoiser(net, catalog.build("processes", "flow")), []
    for kind, text in (("reference", ""), ("method", plugin)):
        detach, spent = attach(net, catalog.build("acceleration", text)) if text else (lambda: None), []
        for _ in range(2):
            began, run = time.perf_counter(), Run()
            sample(denoiser, (2, 4, 16, 16), catalog.build("solvers", "ddim"), 10, run=run)
            spent.append(time.perf_counter() - began)
        detach()
        held = sum(b["cache_bytes"] for f in run.record.facts.values() if isinstance(f, dict) for b in f.values())
        rows.append(Row(f"larger random {backbone}, {text or 'full'}", kind, "seconds for 10 steps (lower)", [min(spent)],
                        f"{held / 1e6:.2f} MB of cache"))  # fmt: skip
    return rows
