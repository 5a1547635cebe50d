"""Solvers and grids on a trained text-to-image model under guidance, by distance to a run of many steps.

python benchmarks/guided_solvers.py [--model emoji] [--steps 6 10 20] [--scales 3 7.5] [--seeds 2] [--repeats 1] [--json FILE]

The reference is `deis:points=3` on `beta` with 60 steps. Prints a table in Markdown: docs/benchmarks/guided.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

import ornstein

PROMPTS = ["red apple", "fox", "ghost", "rocket"]
PAIRS = [("ddim", "uniform"), ("dpmpp2m", "uniform"), ("dpmpp2m", "beta"), ("unipc", "beta"), ("pndm", "beta"),
         ("deis", "beta"), ("deis:points=3", "beta"), ("deis:points=2", "beta")]  # fmt: skip


def table(name: str, steps: list[int], scales: list[float], seeds: int, reference: int) -> list[dict]:
    """One row for each scale, number of steps and pair: relative distances, mean and spread over prompts and seeds."""
    model, prompts, rows = ornstein.load(name), PROMPTS if name == "emoji" else ["3", "7"], []
    for scale in scales:
        rule = [f"cfg:scale={scale:g}"] if scale != 1 else []
        draw = {"guidance": rule, "prompts": prompts}
        true = [model.generate(steps=reference, solver="deis:points=3", grid="beta", seed=k, **draw).x for k in range(seeds)]
        for n in steps:
            for solver, grid in PAIRS:
                gaps, took = [], []
                for k in range(seeds):
                    drawn = model.generate(steps=n, solver=solver, grid=grid, seed=k, **draw)
                    x, _ = drawn.x, took.append(1e3 * drawn.record.seconds)
                    gaps += ((x - true[k]).flatten(1).norm(dim=1) / true[k].flatten(1).norm(dim=1)).tolist()
                rows.append({"scale": scale, "steps": n, "solver": solver, "grid": grid, "ratio": statistics.fmean(gaps),
                             "spread": statistics.stdev(gaps), "median_ms": statistics.median(took)})  # fmt: skip
    return rows


def markdown(rows: list[dict]) -> str:
    columns = sorted({(r["scale"], r["steps"]) for r in rows})
    lines = ["| solver | grid | " + " | ".join(f"scale {s:g}, {n} steps" for s, n in columns) + " |",
             "|---" * (2 + len(columns)) + "|"]  # fmt: skip
    found = {(r["solver"], r["grid"], r["scale"], r["steps"]): r for r in rows}
    for pair in dict.fromkeys((r["solver"], r["grid"]) for r in rows):
        cells = [found[(*pair, *c)] for c in columns]
        lines.append(f"| {pair[0]} | {pair[1]} | " + " | ".join(f"{c['ratio']:.3f} ± {c['spread']:.2f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--model", default="emoji")
    ask.add_argument("--steps", type=int, nargs="+", default=[6, 10, 20])
    ask.add_argument("--scales", type=float, nargs="+", default=[3.0, 7.5])
    for name, default in (("seeds", 2), ("threads", 1), ("reference", 60), ("repeats", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    rows = table(a.model, a.steps, a.scales, a.seeds, a.reference)
    print(markdown(rows))
    # the form that all benchmarks share: the ratio is the distance to the reference, relative to its size
    result = {"title": "guided solvers", "rows": {
        f"{r['solver']} on {r['grid']}, scale {r['scale']:g}, {r['steps']} steps": r for r in rows}}  # fmt: skip
    print(json.dumps(result))
    if a.json:
        a.json.write_text(json.dumps([result]))


if __name__ == "__main__":
    main()
