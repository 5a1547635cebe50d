"""What the token methods' evidence shares: wall-clock, gather and scatter included, and counted FLOPs where tokens are many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import sdpa_flop

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Row
from ornstein.evidence._flops import Flops
from ornstein.evidence.acceleration import _ground

# random networks: name -> (backbone, side of the latents); the first has 256 tokens of width 192, the second 1024 of width 64
LARGER = {"256 tokens": ("dit:channels=4,patch=2,width=192,depth=4,heads=4", 32),
          "1024 tokens": ("dit:channels=4,patch=2,width=64,depth=3,heads=4", 64)}  # fmt: skip
STEPS, TRIES = 6, 2


@cache
def network(name: str) -> Denoiser:
    source = torch.Generator().manual_seed(1)
    net = catalog.build("backbones", LARGER[name][0]).eval().requires_grad_(False)
    for key, parameter in net.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=source) * (0.01 if key.startswith("time") else 0.03))
    return Denoiser(net, catalog.build("processes", "flow"))


def drawn(name: str, plugin: Any, steps: int = STEPS) -> Run:
    denoiser, run, side = network(name), Run(), LARGER[name][1]
    detach = attach(denoiser.backbone, catalog.build("acceleration", plugin)) if plugin else (lambda: None)
    try:
        sample(denoiser, (1, 4, side, side), catalog.build("solvers", "ddim"), steps, run=run)
    finally:
        detach()
    return run


def counted(name: str, plugin: Any) -> float:
    """FLOPs of a run, matrix products and attention alike, matching and waste included."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(q: Any, k: Any, v: Any, *rest: Any, out_val: Any = None, **more: Any) -> int:
        return sdpa_flop(q, k, v)  # of the CPU's kernel the counter knows nothing

    with Flops({fused: attention}) as seen:
        drawn(name, plugin)
    return seen.total


def seconds(plugins: Sequence[str], name: str = "256 tokens") -> list[Row]:
    """The full run and each plugin, tried in turns; the less of two tries."""
    spent: dict[str, list[float]] = {p: [] for p in ("", *plugins)}
    runs, full = {}, counted(name, "")
    for _ in range(TRIES):
        for plugin, times in spent.items():
            began = time.perf_counter()
            runs[plugin] = drawn(name, plugin)
            times.append(time.perf_counter() - began)
    rows = []
    for plugin, times in spent.items():
        share = counted(name, plugin) / full
        held = sum(b["cache_bytes"] for f in runs[plugin].record.facts.values() if isinstance(f, dict) for b in f.values())
        rows.append(Row(f"random dit, {name}, {plugin or 'full'}", "method" if plugin else "reference",
                        f"seconds for {STEPS} steps (lower)", [min(times)],
                        f"{share:.0%} of the FLOPs, {held / 1e6:.2f} MB of memory"))  # fmt: skip
    return rows


def beside(spec: str | Any, name: str = "", kind: str = "reference") -> Row:
    """One more setting on the digits model, in distance to the full run."""
    found = _ground.draw("dit", spec)
    return Row(name or str(spec), kind, _ground.FULL, _ground.distances("dit", found.x),
               f"{found.evaluations:.1f} evaluations of {_ground.STEPS}")  # fmt: skip


def nearer(one: Row, other: Row) -> bool:
    """In the mean and in most seeds."""
    return one.mean < other.mean and sum(a < b for a, b in zip(one.values, other.values)) > len(one.values) / 2
