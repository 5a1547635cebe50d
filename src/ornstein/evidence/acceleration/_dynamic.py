"""The ground of dynamic depth and width: shipped routers of the digits DiT, and what their FLOPs buy otherwise."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.acceleration.skip import Skip
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, running
from ornstein.evidence import Row
from ornstein.evidence.acceleration import _ground

__all__ = ["clocked", "digits", "error", "leave_out", "row", "routers", "steps", "wins", "with_arrays"]


def routers(kind: str) -> Artefact:
    """The shipped ones, refused on another model."""
    found = Artefact.load(catalog.ROOT / "models" / "digits" / f"{kind}.safetensors", kind)
    return found.check(_ground.model("dit")[0])


def digits(source: torch.Generator, batch: int) -> tuple[Tensor, dict]:
    """Training images and their labels, for learning routers."""
    data = catalog.build("data", "digits")
    rows = torch.randint(len(data.images()), (batch,), generator=source)
    return data.images()[rows], {"label": data.labels[rows]}


def row(name: str, kind: str, plugin: Any, extra: float = 0.0) -> tuple[list[Row], float]:
    """A run of 40 steps with the plugin: its two rows and its cost in evaluations, with `extra` for the routers."""
    drawn = _ground.draw("dit", plugin)
    spent = drawn.evaluations + extra
    return [Row(name, kind, metric, _ground.distances("dit", drawn.x, true), f"{spent:.1f} evaluations of {_ground.STEPS}")
            for metric, true in ((_ground.FULL, False), (_ground.TRUE, True))], spent  # fmt: skip


def steps(spent: float) -> list[Row]:
    """As many evaluations (rounded up) of the whole network."""
    n, found = math.ceil(spent - 0.01), []
    for kind, solver in (("natural", "ddim"), ("equal-cost", "dpmpp2m")):
        drawn = _ground.plain("dit", n, solver)
        found += [Row(f"{solver}, {n} steps", kind, metric, _ground.distances("dit", drawn.x, true), f"{n} evaluations")
                  for metric, true in ((_ground.FULL, False), (_ground.TRUE, True))]  # fmt: skip
    return found


def wins(rows: Sequence[Row], name: str) -> bool:
    """The first row lies below that of the baseline whose name begins so: its mean, and most seeds, to the full run."""
    other = next(r for r in rows[1:] if r.name.startswith(name) and r.metric == _ground.FULL)
    return rows[0].mean < other.mean and sum(a < b for a, b in zip(rows[0].values, other.values)) > len(other.values) / 2


@cache
def batch() -> tuple[Tensor, Tensor, dict, Tensor]:
    """Training images made noisy at random times: x, t, cond, and what the whole network says."""
    denoiser, source = _ground.model("dit")[0], torch.Generator().manual_seed(5)
    x0, cond = digits(source, 64)
    t = torch.rand(64, generator=source)
    x = denoiser.process.corrupt(x0, torch.randn(x0.shape, generator=source), t)
    return x, t, cond, denoiser(x, t, cond).value


def error(plugin: Any) -> float:
    """Mean square by which one evaluation with the plugin differs on that batch."""
    denoiser, (x, t, cond, whole) = _ground.model("dit")[0], batch()
    detach = attach(denoiser.backbone, plugin)
    try:
        with running(Run()):
            said = denoiser(x, t, cond, Clock(t=t, ids=tuple(range(len(x)))))
    finally:
        detach()
    return (said.value - whole).square().mean().item()


def leave_out(depth: int, count: int) -> tuple[int, ...]:
    """The blocks without which `error` is least, found one after another."""
    gone: tuple[int, ...] = ()
    for _ in range(count):
        gone = min(((*gone, k) for k in range(depth) if k not in gone), key=lambda some: error(Skip((some,))))
    return tuple(sorted(gone))


def clocked(plugins: dict[str, Any], steps: int = 4) -> list[Row]:
    """Wall-clock of a larger random DiT of 3 blocks, without and with each plugin; the least of two interleaved tries."""
    source = torch.Generator().manual_seed(1)
    net = catalog.build("backbones", "dit:channels=4,patch=2,width=384,depth=3,heads=4").eval().requires_grad_(False)
    for key, parameter in net.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=source) * (0.01 if key.startswith("time") else 0.03))
    denoiser, spent = Denoiser(net, catalog.build("processes", "flow")), {name: [] for name in ("full", *plugins)}
    for _ in range(2):
        for name, times in spent.items():
            detach = attach(net, plugins[name]) if name in plugins else (lambda: None)
            began = time.perf_counter()
            sample(denoiser, (2, 4, 16, 16), catalog.build("solvers", "ddim"), steps, run=Run())
            times.append(time.perf_counter() - began)
            detach()
    return [Row(f"larger random dit, {name}", "reference" if name == "full" else "method", f"seconds for {steps} steps (lower)",
                [min(times)]) for name, times in spent.items()]  # fmt: skip


def with_arrays(artefact: Artefact, **arrays: Tensor) -> Artefact:
    """The same routers but for these arrays; a name's first underscore stands for its dot."""
    changed = {k.replace("_", ".", 1): v for k, v in arrays.items()}
    return replace(artefact, arrays={**artefact.arrays, **changed})

