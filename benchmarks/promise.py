"""How often a tuned plan keeps its promise: many small searches, each judged on fresh samples that none of them saw.

python benchmarks/promise.py [--model digits] [--tunings 40] [--budget 10] [--fresh 1500] [--threads 1] [--json FILE]

Each search has its own seed and one of the bounds in turn; kept: the mean loss over the fresh samples is within the bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from interleaved import written

import ornstein
from ornstein import cost, tune
from ornstein.quality import Trial

BOUNDS = {"latent": (0.03, 0.06, 0.12, 0.25), "perceptual": (0.002, 0.01, 0.03),
          "ssim": (0.01, 0.03, 0.1), "accuracy": (0.04,)}
FRESH = 55_555_555  # the first seed that no search sees


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--model", default="digits")
    ask.add_argument("--metrics", nargs="+", default=["latent"])
    for name, default in (("tunings", 40), ("budget", 10), ("fresh", 1500), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    cost.CACHE = Path(tempfile.mkdtemp())
    model = ornstein.load(a.model)
    reference = model.plan(steps=40)
    judge, rows, kept, found = Trial(model, reference=reference, batch=50), {}, 0, 0
    goals = [(m, b) for m in a.metrics for b in BOUNDS[m]]
    for k in range(a.tunings):
        metric, bound = goals[k % len(goals)]
        made = tune.tune(model, tune.Goal(metric, bound), a.budget, reference=reference, seed=k)
        if made.plan is None:
            print(f"{k:3} {metric} {bound}: refused")
            continue
        found += 1
        loss = judge.loss(metric, judge.draw(made.plan, FRESH, a.fresh)[0], FRESH)
        kept += loss.mean <= bound
        f = made.plan.figures
        rows[f"{k}: {metric} {bound}"] = {
            "plan": tune.label(made.plan), "loss": loss.mean, "promised": bound, "figure": f["loss"],
            "median_ms": f["seconds"] * 1e3, "ratio": 1 / f["times_faster"]}  # fmt: skip
        word = "kept" if loss.mean <= bound else "BROKEN"
        print(f"{k:3} {metric} {bound}: {loss.mean:.4g} {word}  {tune.label(made.plan)}", flush=True)
    rate = kept / max(found, 1)
    print(f"{kept} of {found} promises kept ({rate:.1%}), {a.tunings - found} searches refused")
    title = f"promises of {a.model}, {a.tunings} searches of {a.budget} s, judged on {a.fresh} fresh samples"
    faster = statistics.median(1 / r["ratio"] for r in rows.values()) if rows else 0.0
    results = [{"title": title, "rows": rows, "kept": kept, "found": found, "median_faster": faster}]
    print(json.dumps(results[0]))
    written(a.json, results)


if __name__ == "__main__":
    main()
