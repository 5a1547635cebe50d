"""Plans that `tune` finds beside the best that a careful user would set by hand, at three bounds, in one run each.

python benchmarks/tuned.py [--model digits] [--bounds 0.02 0.06 0.2] [--budget 120] [--count 64] [--parts 1000] [--json FILE]

By hand: the usual solvers at the customary steps, in float32 and in bfloat16, and the accelerations with the settings of their
evidence at 20 steps. Of those whose mean loss on the same fresh samples keeps the bound, the fastest; no confidence is asked of
them, as it is of the tuned. ratio: seconds of the tuned over those by hand; beside it over those of the best in float32, and over
those of the fastest by hand that could be promised as the tuned was: with that confidence, on as many fresh samples (its doubt is
not shared among those that were tried before it). With --again the tuned plans are those of an earlier file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from interleaved import measure, ratio, written

import ornstein
from ornstein import cost, tune
from ornstein.bench import label, read_plan
from ornstein.quality import Trial

SOLVERS = ("solver=deis grid=beta", "solver=deis:points=2 grid=beta", "solver=dpmpp2m grid=uniform", "solver=ddim grid=uniform")
STEPS = (5, 8, 10, 12, 15, 20, 30)
FRESH = 77_777_777


def by_hand(model: object, parts: int) -> dict[str, object]:
    """Name -> plan. parts: so many of the accelerations."""
    texts = [f"steps={n} {solver}{dtype}" for dtype in ("", " dtype=bfloat16") for n in STEPS for solver in SOLVERS]
    texts += [f"steps=20 accelerate={part}" for part in tune.accelerations(model)[:parts]]
    return {label(plan): plan for plan in (read_plan(model, text) for text in texts)}


def promised(trial: Trial, kept: dict[str, tuple], bound: float, metric: str, count: int) -> str | None:
    """The cheapest of these plans by hand whose mean is surely within the bound, as far as so many samples tell."""
    for name, (_, _, plan, _) in kept.items():
        if trial.loss(metric, trial.draw(plan, FRESH + 1, count)[0], FRESH + 1).below(0.975) <= bound:
            return name
    return None


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--model", default="digits")
    ask.add_argument("--metric", default="latent")
    ask.add_argument("--bounds", type=float, nargs="+", default=[0.02, 0.06, 0.2])
    for name, default in (("parts", 1000), ("budget", 120), ("count", 64), ("batch", 16), ("repeats", 9), ("threads", 1),
                          ("reference", 60)):  # fmt: skip
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    ask.add_argument("--again", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    cost.CACHE = Path(tempfile.mkdtemp())
    model, results = ornstein.load(a.model), []
    reference = model.plan(steps=a.reference)
    trial, hand = Trial(model, reference=reference, batch=a.batch), []
    for name, plan in by_hand(model, a.parts).items():
        try:
            x, record = trial.draw(plan, FRESH, a.count)
            price = cost.predict(model, plan, a.batch, trial.prompts, cache=cost.CACHE).seconds
            hand.append((price, name, plan, trial.loss(a.metric, x, FRESH).mean))
        except ornstein.OrnsteinError as error:
            print(f"{name}: {error}")
    hand.sort(key=lambda h: h[0])
    earlier = {r["title"]: r["rows"]["tuned"] for r in json.loads(a.again.read_text())} if a.again else {}
    for bound in a.bounds:
        title = f"{a.model}, {a.metric} at most {bound}"
        if title in earlier:
            tuned, high, n = read_plan(model, earlier[title]["tuned"]), earlier[title]["promised"], earlier[title]["n"]
        else:
            tuned = tune.tune(model, tune.Goal(a.metric, bound), a.budget, reference=reference, batch=a.batch).plan
            high, n = (tuned.figures["high"], tuned.figures["n"]) if tuned else (0.0, 0)
        kept = {h[1]: h for h in hand if h[3] <= bound}
        fast = [*list(kept)[:4], *[k for k in kept if "bfloat16" not in k][:4]]
        if tuned is None or not fast:
            print(f"{bound}: tuned {tuned and label(tuned)}, by hand {fast and fast[0]}", flush=True)
            continue
        sure = promised(trial, kept, bound, a.metric, n)
        plans = {"tuned": tuned} | {k: kept[k][2] for k in (*fast, *([sure] if sure else []))}
        trial.draw(tuned, 0, a.batch)  # compiled code is compiled before
        seconds = measure({n: (lambda p=p: trial.draw(p, 0, a.batch)) for n, p in plans.items()}, a.repeats)
        slow = [k for k in fast if "bfloat16" not in k]
        best, whole = (min(some, key=lambda k: ratio(seconds, k, "tuned")) for some in (fast, slow))
        loss = trial.loss(a.metric, trial.draw(tuned, FRESH, a.count)[0], FRESH).mean
        row = {"median_ms": 1e3 * sorted(seconds["tuned"])[a.repeats // 2] / a.batch, "ratio": ratio(seconds, "tuned", best),
               "tuned": label(tuned), "loss": loss, "promised": high, "n": n,
               "by_hand": best, "by_hand_loss": kept[best][3], "float32": whole, "float32_loss": kept[whole][3],
               "float32_ratio": ratio(seconds, "tuned", whole),
               "sure": sure, "sure_ratio": ratio(seconds, "tuned", sure) if sure else None}  # fmt: skip
        results.append({"title": title, "rows": {"tuned": row}})
        print(f"{bound}: {row['ratio']:.2f} of the seconds by hand, {row['float32_ratio']:.2f} of those in float32, "
              f"{row['sure_ratio'] or 0:.2f} of those by hand that could be promised", flush=True)
        print(json.dumps(results[-1]), flush=True)
    written(a.json, results)


if __name__ == "__main__":
    main()
