"""What int8 in some of the steps saves, and what it costs: seconds of a larger random DiT, errors of the digits model.

python benchmarks/precision_by_step.py [--width 384] [--steps 6] [--repeats 3] [--json FILE] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from interleaved import digits_model, measure, report, written
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.recipes.precision_by_step import precision_by_step

GROUPS, EACH, STEPS = 5, 10, 20  # of the digits


def ways(denoiser: Denoiser) -> dict[str, Any]:
    """float32 is what the distances are to."""
    by = {"the first half of": (0.5, False), "the first three quarters of": (0.75, False), "the last half of": (0.5, True),
          "all": (1.0, False)}  # fmt: skip
    return {"float32": denoiser} | {f"int8 in {n} the steps": precision_by_step(denoiser, s, late=late)
                                    for n, (s, late) in by.items()}  # fmt: skip


def random_dit(width: int) -> Denoiser:
    net = catalog.build("backbones", f"dit:channels=4,patch=2,width={width},depth=4,heads=4").eval().requires_grad_(False)
    source = torch.Generator().manual_seed(1)
    for key, p in net.named_parameters():
        p.copy_(torch.randn(p.shape, generator=source) * (0.01 if key.startswith("time") else 0.03))
    return Denoiser(net, catalog.build("processes", "flow"))


def digits(denoiser: Any, steps: int = STEPS) -> Tensor:
    n = GROUPS * EACH
    return sample(denoiser, (n, 1, 8, 8), catalog.build("solvers", "dpmpp2m"), steps, cond={"label": torch.arange(n) % 10},
                  seed=[k // EACH for k in range(n)])  # fmt: skip


def distance(x: Tensor, to: Tensor) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(x.chunk(GROUPS), to.chunk(GROUPS))]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 384), ("size", 32), ("batch", 4), ("steps", 6), ("repeats", 3)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    ask.add_argument("--out", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(1)
    big, small, solver = random_dit(a.width), digits_model().denoiser, catalog.build("solvers", "ddim")
    seconds = measure({n: lambda d=d: sample(d, (a.batch, 4, a.size, a.size), solver, a.steps) for n, d in ways(big).items()},
                      a.repeats, 1)  # fmt: skip
    share = {n: statistics.median(x / y for x, y in zip(v, seconds["float32"])) for n, v in seconds.items()}
    full, lines = digits(small), []
    for name, denoiser in ways(small).items():
        fewer = max(1, min(STEPS, round(STEPS * share[name])))
        found, other = distance(digits(denoiser), full), distance(digits(small, fewer), full)
        lines.append({"name": name, "seconds": share[name], "distance": statistics.fmean(found),
                      "spread": statistics.stdev(found), "fewer": fewer, "distance of fewer": statistics.fmean(other)})  # fmt: skip
    if a.out:
        a.out.write_text(page(a, lines), encoding="utf-8")
    written(a.json, [report(f"precision by step, width {a.width}, {a.steps} steps", seconds, "float32", {}, lines=lines)])


def page(a: argparse.Namespace, lines: list[dict[str, Any]]) -> str:
    text = ["# Precision by step", "",
            "`python benchmarks/precision_by_step.py --out docs/benchmarks/precision.md`. The recipe `precision_by_step`: an int8 "
            f"copy (weights and activations) takes some of the steps. Seconds: over those of float32, a random DiT of width "
            f"{a.width}, 4 blocks, {(a.size // 2) ** 2} tokens, {a.steps} steps, one thread of a CPU. Distance: relative L2 to "
            f"float32, the digits model, dpmpp2m with {STEPS} steps, mean and standard deviation over {GROUPS} seeds of {EACH}; "
            "beside it the distance of as many float32 steps as fit into the seconds. The two networks differ: the small one is "
            "too small for int8 to pay, the large one is not trained. Where the line for the first half is no nearer than that "
            "for the last half, it does not matter here which steps are the imprecise ones.", "",
            "| what | seconds | distance | float32 steps in these seconds | their distance |", "|---|---|---|---|---|"]  # fmt: skip
    text += [f"| {v['name']} | {v['seconds']:.2f} | {v['distance']:.4f} ± {v['spread']:.4f} | {v['fewer']} | "
             f"{v['distance of fewer']:.4f} |" for v in lines]  # fmt: skip
    return "\n".join([*text, ""])


if __name__ == "__main__":
    main()
