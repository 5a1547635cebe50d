"""Predicted against measured seconds and FLOPs of plans on the shipped models.

python benchmarks/cost_model.py [--models digits digits-unet] [--plans 11] [--batch 32] [--repeats 5] [--threads 1] [--json FILE]

ratio: predicted over measured seconds; the bound is 15 % to either side. FLOPs are held to agree within 2 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from interleaved import written

import ornstein
from ornstein import cost
from ornstein.bench import label, read_plan

PLANS = ("steps=20", "steps=12 solver=dpmpp2m grid=uniform", "steps=10 solver=heun", "steps=20 guidance=cfg:scale=2",
         "steps=20 guidance=cfg:scale=2,interval=(0.2,0.8)", "steps=20 accelerate=taylorseer:interval=3",
         "steps=30 guidance=cfg:scale=2 accelerate=taylorseer:interval=3", "steps=20 accelerate=firstblock:threshold=0.2",
         "steps=20 accelerate=deepcache:interval=3", "steps=20 accelerate=tome:ratio=0.5", "steps=20 compress=int8")  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--models", nargs="+", default=["digits", "digits-unet"])
    for name, default in (("plans", len(PLANS)), ("batch", 32), ("repeats", 5), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    results, folder = [], Path(tempfile.mkdtemp())
    for name in a.models:
        model = ornstein.load(name)
        prompts, rows = [str(d) for d in range(10)] if "digits" in name else ["fox", "red apple"], {}
        for text in PLANS[: a.plans]:
            plan = read_plan(model, text)
            try:
                told = cost.predict(model, plan, a.batch, prompts, cache=folder)
                seconds, _ = cost._run(model, plan, a.batch, prompts, a.repeats)
            except ornstein.OrnsteinError as error:
                print(f"{name}: {text}: {error}")
                continue
            counted = cost.flops(partial(cost._run, model, plan, a.batch, prompts, 1))
            row = {"median_ms": seconds * 1e3, "predicted_ms": told.seconds * 1e3, "ratio": told.seconds / seconds,
                   "flops": told.flops / max(counted, 1)}  # fmt: skip
            rows[label(plan)] = row
            print(f"{name:12} {text:62} measured {seconds * 1e3:8.1f} ms  predicted {row['ratio']:.2f}  FLOPs {row['flops']:.3f}")
        off = [abs(r["ratio"] - 1) for r in rows.values()]
        within = sum(v <= 0.15 for v in off)
        print(f"{name}: {within} of {len(off)} within 15 %, the median off by {statistics.median(off):.0%}")
        title = f"cost model, {name}, batch {a.batch}, {a.threads} threads, torch {torch.__version__}"
        results.append({"title": title, "rows": rows, "within_15_percent": within})
        print(json.dumps(results[-1]))
    written(a.json, results)


if __name__ == "__main__":
    main()
