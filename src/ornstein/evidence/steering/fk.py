"""Evidence for Feynman-Kac steering: its law against the exact one, best of N and weighed finished samples at equal calls."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import energy
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.fk import FK

from ._particles import batched, bed, counted, digits, judged, linear, tilted, tokens, wished

CLAIM = (
    "With the potential 'difference' one of 16 particles, drawn by its weight, lies nearer to p(x) exp(3 r(x)), known exactly, "
    "than one of 4, than the best of 16 and than one of 16 finished samples drawn by exp(3 r); and on digits 4 particles make "
    "the wished class more often than the best of 4 at as many calls, for a judge that is not the reward."
)
SCALE, STEPS, LABEL, EXACT = 3.0, 20, 8, 800
LAW = "energy distance to the tilted law (lower)"


def weighed(n: int, scale: float = SCALE, count: int = 11) -> FK:
    return FK(linear, n, scale, "difference", (0, 1), count, keep="draw")


def laws(seeds: int, count: int) -> list[Row]:
    """On mixtures of eight Gaussians in the plane."""
    tried = {"FK, 16 particles, difference": weighed(16), "FK, 4 particles, difference": weighed(4),
             "FK, 16, max at 4 points, drawn": FK(linear, 16, SCALE, "max", keep="draw"),
             "FK, 16, sum at 4 points, drawn": FK(linear, 16, SCALE, "sum", keep="draw"),
             "best of 16": BestOfN(linear, 16), "16 finished samples, drawn by exp(3 r)": weighed(16, SCALE, 0)}  # fmt: skip
    rows = []
    for name, part in tried.items():
        values, seconds = [], 0.0
        for seed in range(seeds):
            x, took = batched(bed(seed), (2,), count, "ddim:eta=1", STEPS, part, seed)
            values.append(energy(x, tilted(bed(seed), SCALE).sample(EXACT, seed=1)))
            seconds += took
        kind = "method" if name.startswith("FK") else "equal-cost"
        cost = f"{part.budget * STEPS} NFE, {1e3 * seconds / count / seeds:.1f} ms a sample"
        rows.append(Row(name, kind, LAW, values, cost))
    plain = [energy(batched(bed(s), (2,), count, "ddim:eta=1", 16 * STEPS, None, s)[0], tilted(bed(s), SCALE).sample(EXACT, seed=1))
             for s in range(seeds)]  # fmt: skip
    rows.append(Row("one sample, 16 times the steps", "natural", LAW, plain, f"{16 * STEPS} NFE"))
    exact = [energy(tilted(bed(s), SCALE).sample(count, seed=9), tilted(bed(s), SCALE).sample(EXACT, seed=1)) for s in range(seeds)]
    return [*rows, Row("exact samples", "floor", LAW, exact)]


def extremes(seeds: int, count: int) -> list[Row]:
    """A mild tilt: who goes too far."""
    metric, got = "mean reward less the exact one, scale 1 (0 is right)", {"FK, 16 particles, difference": [], "best of 16": []}
    for seed in range(seeds):
        want = float(linear(tilted(bed(seed), 1.0).sample(20000, seed=1)).mean())
        for name, part in zip(got, (weighed(16, 1.0), BestOfN(linear, 16))):
            got[name].append(float(linear(batched(bed(seed), (2,), count, "ddim:eta=1", STEPS, part, seed)[0]).mean()) - want)
    return [Row(n, "method" if n.startswith("FK") else "equal-cost", metric, v, f"{16 * STEPS} NFE") for n, v in got.items()]


def words(seeds: int, count: int) -> list[Row]:
    """Masked tokens, whose law is exact too."""
    one, metric = tokens(), "tokens: total variation to the tilted law (lower)"
    want = (one.law.log() + counted(one.data)).softmax(0)
    steered, finished = FK(counted, 8, 1.0, "difference", (0, 1), 9, keep="draw"), FK(counted, 8, 1.0, count=0, keep="draw")
    tried = {"FK, 8 particles, difference": steered, "best of 8": BestOfN(counted, 8),
             "8 finished samples, drawn by exp(r)": finished}  # fmt: skip
    rows = []
    for name, part in tried.items():
        found = []
        for seed in range(seeds):
            which = one.which(batched(one, (5,), count, "unmask", 24, part, seed)[0])
            share = torch.bincount(which, minlength=7).double() / count
            found.append(float((share[:6] - want).abs().sum() + share[6]) / 2)
        rows.append(Row(name, "method" if name.startswith("FK") else "equal-cost", metric, found, "192 NFE"))
    return rows


def pictures(seeds: int, count: int, steps: int) -> dict[str, list[Row]]:
    """Digits without a class, and a reward that wants one."""
    tried = {"FK, 4 particles, difference": FK(wished(LABEL), 4, 1.0, "difference"), "FK, 4, max": FK(wished(LABEL), 4, 1.0),
             "best of 4": BestOfN(wished(LABEL), 4)}  # fmt: skip
    rows = {}
    for name, part in tried.items():
        done = [digits(part, count, steps, seed) for seed in range(seeds)]
        kind, seconds = "method" if name.startswith("FK") else "equal-cost", sum(s for _, s in done) / count / seeds
        calls = 4 if name == "best of 4" else 4 * (1 + len(part.points(steps)))
        cost = f"{4 * steps} NFE, {calls} rewards, {1e3 * seconds:.0f} ms a sample"
        rows[name] = judged(name, kind, [x for x, _ in done], LABEL, cost)
    return rows


def run(quick: bool = True) -> Evidence:
    """Five seeds of 40 samples on mixtures (of 400 in full), three of 10 digits (of 100), three of 40 words (of 600)."""
    law = laws(5, 40 if quick else 400)
    seen = pictures(3, 10 if quick else 100, 10)
    mean = {r.name: r.mean for r in law}
    best, few, finished = (mean[n] for n in ("best of 16", "FK, 4 particles, difference", "16 finished samples, drawn by exp(3 r)"))
    nearer = mean["FK, 16 particles, difference"] < min(best, few, finished)
    more = seen["FK, 4 particles, difference"][0].mean > seen["best of 4"][0].mean
    rows = [*law, *extremes(3, 40 if quick else 400), *words(3, 40 if quick else 600), *(r for two in seen.values() for r in two)]
    return Evidence(CLAIM, rows, verdict(nearer and more, nearer or more),
                    "Every particle costs a call a step; a reward is asked at each point for each particle.")  # fmt: skip
