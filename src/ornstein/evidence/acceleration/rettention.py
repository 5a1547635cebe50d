"""Evidence for Re-ttention: on the emoji model, whose 64 tokens a picture make a band worth the name."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration._ground import Reuse
from ornstein.model import load

TRIAL = ("interval=1", "width=0.3,interval=3,warmup=2", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel",)
CLAIM = ("With an eighth of the keys the pictures stay nearer to the full run than with the band alone, than with the whole old "
         "output of each attention kept, and than with as many steps fewer as the FLOPs of 1024 tokens would buy.")  # fmt: skip
STEPS, WARMUP, INTERVAL, WIDTH, TOKENS, CHANNELS = 12, 3, 4, 0.125, 1024, 192
METRIC = f"relative distance to the full {STEPS}-step run (lower)"
PROMPTS = ("grinning cat", "red apple", "snow-capped mountain", "rocket")


@cache
def model() -> tuple[Any, Any]:
    found = load("emoji")
    return found, found.encode(PROMPTS[:3])


def draw(plugin: object = None, steps: int = STEPS, solver: str = "ddim") -> tuple[Tensor, float]:
    """Three pictures, and the processor time."""
    emoji, cond = model()
    detach = attach(emoji.backbone, catalog.build("acceleration", plugin)) if plugin else (lambda: None)
    try:
        began = time.process_time()
        x = sample(emoji.denoiser, (3, *emoji.shape), catalog.build("solvers", solver), steps, cond=cond, seed=3)
        return x, time.process_time() - began
    finally:
        detach()


def setting(width: float = WIDTH, extra: str = "") -> str:
    return f"rettention:width={width},interval={INTERVAL},warmup={WARMUP}{extra}"


def budget() -> float:
    """Full evaluations that the FLOPs of the method amount to where there are TOKENS tokens of CHANNELS channels."""
    full = sum(k < WARMUP or (k - WARMUP + 1) % INTERVAL == 0 for k in range(STEPS))
    attention = 4 * TOKENS / (24 * CHANNELS + 4 * TOKENS)  # of a block's FLOPs
    return full + (STEPS - full) * (1 - attention * (1 - 2 * WIDTH))  # blocks of 2r queries see 4r keys


def run(quick: bool = True) -> Evidence:
    truth, seconds = draw()
    n = math.ceil(budget())
    tried = {("method", "rettention"): setting(), ("natural", "the band alone"): setting(extra=",reshape=False,residual=False"),
             ("equal-cost", "whole old attention output"): setting(0.0),
             ("reference", "band and R without rho"): setting(extra=",reshape=False")}  # fmt: skip
    if not quick:
        tried |= {("reference", "rho without R"): setting(extra=",residual=False"),
                  ("reference", "as released, rho drifts"): setting(extra=",faithful=True"),
                  ("reference", "rettention, half of the keys"): setting(0.5),
                  ("reference", "network's output kept for 2"): Reuse(2)}  # fmt: skip
    drawn = {key: draw(plugin) for key, plugin in tried.items()}
    drawn |= {("equal-cost", f"{solver}, {n} steps"): draw(steps=n, solver=solver) for solver in ("ddim", "dpmpp2m")}
    rows = []
    for (kind, name), (x, spent) in drawn.items():
        gap = (x - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
        rows.append(Row(name, kind, METRIC, gap.tolist(), f"{spent / seconds:.2f} of the full run's seconds at 64 tokens"))
    method, band, old, *_ = rows
    fewer = rows[-2:]
    near = all(a < b for other in (band, old) for a, b in zip(method.values, other.values))
    best = near and method.mean < min(r.mean for r in fewer)
    rows += [*clocked(TOKENS), *([] if quick else clocked(2304))]
    return Evidence(CLAIM, rows, verdict(best, near),
                    f"FLOPs of {budget():.1f} evaluations of {STEPS} at {TOKENS} tokens.")  # fmt: skip


@torch.no_grad()
def clocked(tokens: int, tries: int = 2) -> list[Row]:
    """One cycle of evaluations, one full and the others sparse, on a random network; interleaved, the least of the tries."""
    torch.manual_seed(0)
    spec = f"dit:channels=1,patch=1,width={CHANNELS},depth=2,heads=4"
    net, side = catalog.build("backbones", spec).eval(), math.isqrt(tokens)
    x, t, spent = torch.randn(1, 1, side, side), torch.ones(1), {}
    tried = ("", *(f"rettention:width={w},interval={INTERVAL},warmup=1" for w in (WIDTH, 0.03125)))
    for _ in range(tries):
        for text in tried:
            detach = attach(net, catalog.build("acceleration", text)) if text else (lambda: None)
            with running(Run()):
                began = time.perf_counter()
                for k in range(INTERVAL):
                    with calling(Clock(k, 0, INTERVAL, 1.0, ids=(0,))):
                        net(x, t, None)
                spent[text] = min(spent.get(text, math.inf), time.perf_counter() - began)
            detach()
    return [Row(f"random dit of {tokens} tokens, {text or 'full'}", "reference" if text else "natural",
                f"seconds for {INTERVAL} evaluations (lower)", [s]) for text, s in spent.items()]  # fmt: skip
