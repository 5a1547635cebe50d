"""How often the one-sided bound of a paired loss lies below the true mean, where it says that it seldom does.

python benchmarks/coverage.py [--model digits] [--steps 5 8] [--metrics latent ssim perceptual] [--samples 6000] [--draws 2000]

A plan's losses on many samples are taken once; then few of them are drawn, again and again, and their bound is held against
the mean of all. width: how far the bound lies above the mean of the few, over that of the usual bound (Student's), median.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from interleaved import written

import ornstein
from ornstein.quality import Loss, Trial, student

COUNTS = (48, 112, 256, 512)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--model", default="digits")
    ask.add_argument("--solver", default="deis:points=3")
    ask.add_argument("--steps", type=int, nargs="+", default=[5, 8])
    ask.add_argument("--metrics", nargs="+", default=["latent", "rms", "ssim", "perceptual"])
    ask.add_argument("--confidence", type=float, default=0.975)
    for name, default in (("samples", 6000), ("draws", 2000), ("reference", 40)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    model, results = ornstein.load(a.model), []
    trial = Trial(model, reference=model.plan(steps=a.reference), batch=100)
    for steps in a.steps:
        drawn = trial.draw(model.plan(steps=steps, solver=a.solver), 0, a.samples)[0]
        for metric in a.metrics:
            values, rows = trial.loss(metric, drawn, 0).values, {}
            for n in COUNTS:
                chance, missed, widths = torch.Generator().manual_seed(n), 0, []
                for _ in range(a.draws):
                    few = Loss(metric, values[torch.randperm(len(values), generator=chance)[:n]])
                    above = few.below(a.confidence)
                    missed += above < values.mean().item()
                    usual = student(a.confidence, n - 1) * few.values.std().item() / n**0.5
                    widths.append((above - few.mean) / usual)
                rows[str(n)] = {"missed": missed / a.draws, "width": statistics.median(widths)}
            title = f"{a.model}, {steps} steps of {a.solver}, {metric}: misses of the bound that promises {1 - a.confidence:.1%}"
            results.append({"title": title, "rows": rows})
            print(title, "".join(f"  {n}: {r['missed']:.1%} ({r['width']:.2f})" for n, r in rows.items()), flush=True)
            print(json.dumps(results[-1]), flush=True)
    written(a.json, results)


if __name__ == "__main__":
    main()
