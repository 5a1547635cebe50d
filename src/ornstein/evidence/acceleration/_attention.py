"""The common ground of converted attention: short distillations on the digits, seconds and bytes of many tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from ornstein.acceleration.layers.distil import Distilled, Recipe, distil
from ornstein.acceleration.linfusion import LinFusion, fresh
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running
from ornstein.evidence import Row
from ornstein.evidence._flops import Mode
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._ground import FULL, STEPS

TRAINED = "distilled {} updates"


def taught(text: str, updates: int) -> tuple[Distilled, Any]:
    """The digits DiT under the plugin, and the plugin as trained. LinFusion gets maps of a quarter of the width."""
    data, host = catalog.build("data", "digits"), _ground.model("dit")[0]
    images, labels, plugin, extra = data.images(), data.labels, catalog.build("acceleration", text), None

    def batch(source: torch.Generator) -> tuple:
        rows = torch.randint(len(images), (16,), generator=source)
        return images[rows], {"label": labels[rows]}

    if isinstance(plugin, LinFusion):
        x, cond = batch(torch.Generator().manual_seed(0))
        extra = fresh(host, x, 0.5, cond, hidden=24)
        plugin = LinFusion(plugin.share, extra)
    return distil(host, plugin, batch, Recipe(updates, 4e-3), extra=extra), plugin


def digits(text: str, updates: int = 0, kind: str = "method") -> Row:
    """Distance to the full run of the host, of the host under the plugin or of the student."""
    denoiser, plugin = _ground.model("dit")[0], catalog.build("acceleration", text)
    if updates:
        done, plugin = taught(text, updates)
        denoiser = done.denoiser
    n, detach = _ground.SEEDS * _ground.EACH, attach(denoiser.backbone, plugin)
    try:
        x = sample(denoiser, (n, 1, 8, 8), catalog.build("solvers", "ddim"), STEPS, run=Run(),
                   cond={"label": torch.arange(n) % 10}, seed=[k // _ground.EACH for k in range(n)])  # fmt: skip
    finally:
        detach()
    how = TRAINED.format(updates) if updates else "untrained"
    return Row(f"{text}, {how}", kind, FULL, _ground.distances("dit", x), f"{STEPS} evaluations")


def fewer(share: float, beside: str) -> list[Row]:
    """What fewer full steps reach in the same seconds."""
    n, rows = max(1, math.ceil(STEPS * min(share, 1.0))), []
    for kind, solver in (("natural", "ddim"), ("equal-cost", "dpmpp2m")):
        drawn = _ground.plain("dit", n, solver)
        rows.append(Row(f"{solver}, {n} steps, the seconds of {beside}", kind, FULL, _ground.distances("dit", drawn.x),
                        f"{n} evaluations"))  # fmt: skip
    return rows


class Peak(Mode):
    """The most bytes of tensors that were made and alive at once; what lives inside of one fused kernel is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        met = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in met:
                self.alive[key] = StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


def network(side: int) -> tuple[Denoiser, torch.Tensor]:
    """A random DiT of one block for an image of side x side tokens."""
    net, source = catalog.build("backbones", "dit:channels=4,patch=1,width=96,depth=1,heads=2"), torch.Generator().manual_seed(1)
    for parameter in net.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.05)
    return Denoiser(net.eval(), catalog.build("processes", "flow")), torch.randn(1, 4, side, side, generator=source)


@torch.no_grad()
def evaluation(host: tuple[Denoiser, torch.Tensor], text: str, memory: bool = False) -> float:
    """Seconds of this thread in one evaluation, after one that fills what is kept; or the peak of bytes that it made."""
    (denoiser, x), run = host, Run()
    detach = attach(denoiser.backbone, catalog.build("acceleration", text)) if text else (lambda: None)

    def call(step: int) -> None:
        with running(run), calling(Clock(step, ids=(0,))):
            denoiser.backbone(x, torch.full((1,), 0.5))

    try:
        call(0)
        if memory:
            with Peak() as seen:
                call(1)
            return float(seen.most)
        began = time.thread_time()
        call(1)
        return time.thread_time() - began
    finally:
        detach()


def many(side: int, texts: Sequence[str], tries: int = 3) -> dict[str, Row]:
    """Seconds of each ('' is full) on one core, in turns, the least of several tries; the cost says the peak of memory."""
    host, threads, spent = network(side), torch.get_num_threads(), {t: [] for t in ("", *texts)}
    torch.set_num_threads(1)  # what others do on the machine counts less
    try:
        for _ in range(tries):
            for text in spent:
                spent[text].append(evaluation(host, text))
    finally:
        torch.set_num_threads(threads)
    return {t: Row(f"random dit, {side} x {side} tokens, {t or 'full'}", "method" if t else "reference",
                   "seconds of an evaluation on one core (lower)", [min(s)], f"peak {evaluation(host, t, True) / 1e6:.1f} MB")
            for t, s in spent.items()}  # fmt: skip
