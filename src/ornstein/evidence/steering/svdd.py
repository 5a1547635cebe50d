"""Evidence for SVDD: a wished class of digits by another judge, a rare mode, and its law against the exact one."""

from __future__ import annotations

import torch

from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import energy
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.fk import FK
from ornstein.steering.svdd import SVDD
from ornstein.testbeds import Mixture

from ._particles import batched, bed, counted, digits, judged, linear, tilted, tokens, wished

CLAIM = (
    "At as many calls 4 candidates a step make digits of the wished class at least twice as often as the best of 4, for a judge "
    "that is not the reward; with 8 candidates and alpha = 1/3 its law lies nearer to p(x) exp(3 r(x)), known exactly, than "
    "the best of 8, than 8 finished samples drawn by exp(3 r) and than itself with alpha = 0."
)
SCALE, STEPS, LABEL, EXACT = 3.0, 20, 8, 800


def laws(seeds: int, count: int) -> list[Row]:
    """On mixtures of eight Gaussians in the plane."""
    tried = {"SVDD, alpha = 1/3": SVDD(linear, 8, 1 / SCALE), "SVDD, alpha = 0": SVDD(linear, 8), "best of 8": BestOfN(linear, 8),
             "8 finished samples, drawn by exp(3 r)": FK(linear, 8, SCALE, count=0, keep="draw"),
             "FK, 8 particles, difference": FK(linear, 8, SCALE, "difference", (0, 1), 11, keep="draw")}  # fmt: skip
    rows = []
    for name, part in tried.items():
        far, seconds = [], 0.0
        for seed in range(seeds):
            x, took = batched(bed(seed), (2,), count, "ddim:eta=1", STEPS, part, seed)
            far.append(energy(x, tilted(bed(seed), SCALE).sample(EXACT, seed=1)))
            seconds += took
        kind, cost = "method" if name.startswith("SVDD") else "equal-cost", f"{1e3 * seconds / count / seeds:.1f} ms a sample"
        rows.append(Row(name, kind, "energy distance to the tilted law (lower)", far, f"{8 * STEPS} NFE, {cost}"))
    exact = [tilted(bed(s), SCALE) for s in range(seeds)]
    floor = [energy(one.sample(count, seed=9), one.sample(EXACT, seed=1)) for one in exact]
    return [*rows, Row("exact samples", "floor", "energy distance to the tilted law (lower)", floor)]


def rare(seeds: int, count: int) -> list[Row]:
    """A mode of 1 % of the mass, which the reward wants."""
    means = torch.tensor([[-1.0, 0], [0, 1], [0, -1], [3.0, 0]])
    one = Mixture(means, torch.tensor(0.2), catalog.build("processes", "flow"), torch.tensor([0.33, 0.33, 0.33, 0.01]))
    tried, rows = {"SVDD, alpha = 0": SVDD(linear, 4), "best of 4": BestOfN(linear, 4)}, []
    for name, part in tried.items():
        hit = [float((batched(one, (2,), count, "ddim:eta=1", STEPS, part, s)[0][:, 0] > 2).double().mean()) for s in range(seeds)]
        kind = "method" if name.startswith("SVDD") else "equal-cost"
        rows.append(Row(name, kind, "share in a wanted mode of 1 % (higher)", hit, f"{4 * STEPS} NFE"))
    return rows


def words(seeds: int, count: int) -> list[Row]:
    """Masked tokens: does it stay within the law's own words?"""
    one, rows = tokens(), []
    want = (one.law.log() + counted(one.data)).softmax(0)
    for name, part in {"SVDD, alpha = 1": SVDD(counted, 8, 1.0), "best of 8": BestOfN(counted, 8)}.items():
        kind, far = "method" if name.startswith("SVDD") else "equal-cost", []
        for seed in range(seeds):
            share = torch.bincount(one.which(batched(one, (5,), count, "unmask", 24, part, seed)[0]), minlength=7).double() / count
            far.append(float((share[:6] - want).abs().sum() + share[6]) / 2)
        rows.append(Row(name, kind, "tokens: total variation to the tilted law (lower)", far, "192 NFE"))
    return rows


def pictures(seeds: int, count: int, steps: int) -> dict[str, list[Row]]:
    """Digits without a class, and a reward that wants one."""
    tried = {"SVDD, alpha = 0": SVDD(wished(LABEL), 4), "SVDD, alpha = 0.5": SVDD(wished(LABEL), 4, 0.5),
             "best of 4": BestOfN(wished(LABEL), 4), "one sample": None}  # fmt: skip
    rows = {}
    for name, part in tried.items():
        done = [digits(part, count, steps, seed) for seed in range(seeds)]
        kind = "method" if name.startswith("SVDD") else "equal-cost" if part else "natural"
        asked = 4 * steps if kind == "method" else 4 if part else 0
        ms = 1e3 * sum(s for _, s in done) / count / seeds
        cost = f"{4 * steps if part else steps} NFE, {asked} rewards, {ms:.0f} ms a sample"
        rows[name] = judged(name, kind, [x for x, _ in done], LABEL, cost)
    return rows


def run(quick: bool = True) -> Evidence:
    """Five seeds of 40 samples on mixtures (of 400 in full), three of 12 digits (of 100), of 40 words and of a rare mode."""
    law, seen = laws(5, 40 if quick else 400), pictures(3, 12 if quick else 100, 10)
    nearer = law[0].mean < min(r.mean for r in law[1:4])
    more = min(seen[n][0].mean for n in ("SVDD, alpha = 0", "SVDD, alpha = 0.5")) >= 2 * seen["best of 4"][0].mean
    rows = [*law, *rare(3, 40 if quick else 400), *words(3, 40 if quick else 600), *(r for two in seen.values() for r in two)]
    note = "A candidate costs a call and a reward a step; taken for its value alone (alpha = 0), the law goes to the extremes."
    return Evidence(CLAIM, rows, verdict(nearer and more, nearer or more), note)
