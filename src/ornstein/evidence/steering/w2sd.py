"""Evidence for W2SD: distance to the exact law, beside more steps, plain guidance and autoguidance of the same two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ornstein.core.denoiser import Denoises, guide
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import blurred, classes, energy
from ornstein.evidence.guidance._score import Counted, before, drawn, quality, row
from ornstein.guidance.autoguidance import Autoguidance
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow
from ornstein.steering.w2sd import W2SD
from ornstein.testbeds import Mixture

STEPS, COUNT = 50, 320  # steps as published
LAW = "energy distance to the exact law (lower)"
CLAIM = ("For three gaps between a strong and a weak model (width, weights of the modes, guidance scale), W2SD lies closer to the "
         "exact law than the strong model with as many calls, and no other rule of the same two models with as many calls "
         "(autoguidance, plain guidance, also in an interval) is as close.")  # fmt: skip


@dataclass
class Bed:
    """A true law, a strong and a weak denoiser of it, and the plain rules that the strong one is up against."""

    truth: Mixture
    base: Denoises  # the model that is asked
    strong: Callable[[Denoises], Denoises]  # from the counted base
    weak: Denoises
    each: int  # calls of one strong answer
    plain: dict[str, tuple[Callable[[Denoises], Denoises], int]] = field(default_factory=dict)  # rule, steps


def tilted(truth: Mixture, minor: float) -> Mixture:
    """The first components of each label taken down to a share of `minor`."""
    weights = torch.where(torch.arange(len(truth.means)) < 4, minor, (1 - minor) / 2)
    return Mixture(truth.means, truth.stds, truth.process, weights, truth.labels)


def beds(seed: int) -> Iterator[tuple[str, Bed]]:
    calls = 3 * STEPS - 1
    truth, same = classes(Flow(), seed, std=0.5), lambda d: d
    for name, strong, weak in (("width 1.3 and 1.6", blurred(truth, 1.3), blurred(truth, 1.6)),
                               ("minor share 0.2 and 0.08", tilted(truth, 0.2), tilted(truth, 0.08))):  # fmt: skip
        even = Mixture(truth.means, truth.stds, truth.process, None, truth.labels)
        auto = {"autoguidance scale 2": (lambda d, w=weak: guide(d, Autoguidance(w, 2.0)), calls // 2)}
        yield name, Bed(even, strong, same, weak, 1, auto)
    wide = blurred(truth, 1.6)
    cfg = {"CFG scale 1.5, interval (0.2, 0.7)": (lambda d: guide(d, CFG(1.5, (0.2, 0.7))), 10 * STEPS // 3),
           "CFG scale 2": (lambda d: guide(d, CFG(2.0)), 5 * STEPS // 2)}  # fmt: skip
    yield "guidance 1.5 and 1", Bed(truth, wide, lambda d: guide(d, CFG(1.5)), wide, 2, cfg)


def trial(bed: Bed, seed: int) -> dict[str, tuple[str, float, int]]:
    """Name -> kind, energy distance (mean over the labels), calls."""
    cond, n = {"label": torch.arange(COUNT) % bed.truth.null}, bed.truth.null
    real = bed.truth.sample(COUNT, seed, cond)
    equal = (2 * bed.each + 1) * STEPS - 1

    def tried(kind: str, rule: Callable, steps: int, weak: Denoises | None = None, part: dict | None = None) -> tuple:
        asked: list = []
        weak = None if weak is None else Counted(weak, asked)
        steer = [W2SD(weak, **(part or {}))] if weak is not None else []
        x = drawn(rule(Counted(bed.base, asked)), (COUNT, 8), steps, cond, seed, controllers=steer)
        return kind, sum(energy(x[k::n], real[k::n]) for k in range(n)) / n, len(asked)

    every = {"W2SD": tried("method", bed.strong, STEPS, bed.weak),
             "W2SD, time as released": tried("method", bed.strong, STEPS, bed.weak, {"faithful": True}),
             "strong, as many steps": tried("natural", bed.strong, STEPS),
             "strong, as many calls": tried("equal-cost", bed.strong, equal // bed.each)}  # fmt: skip
    return every | {name: tried("equal-cost", rule, steps) for name, (rule, steps) in bed.plain.items()}


def run(quick: bool = True) -> Evidence:
    figures: dict[str, dict[str, list]] = {}
    for seed in range(3 if quick else 20):
        for name, bed in beds(seed):
            for rule, found in trial(bed, seed).items():
                figures.setdefault(name, {}).setdefault(rule, []).append(found)
    rows, more, best = [], [], []
    for name, rules in figures.items():
        value = {rule: [f[1] for f in found] for rule, found in rules.items()}
        for rule, found in rules.items():
            kind, _, calls = found[0]
            # counted without the plain rule's weak model, whose calls are as many as the strong one's
            rows.append(row(f"{name}: {rule}", kind, LAW, value[rule], calls * (2 if "autog" in rule else 1)))
        mine = value["W2SD"]
        more.append(before(mine, value["strong, as many calls"]) and before(mine, value["strong, as many steps"]))
        others = [rule for rule, found in rules.items() if found[0][0] == "equal-cost"]
        best.append(all(sum(mine) < sum(value[rule]) for rule in others))
    if not quick:
        rows += digits()
    note = f"Closer than the strong model: {sum(more)} of {len(more)} gaps; than every plain rule: {sum(best)} of {len(best)}."
    return Evidence(CLAIM, rows, verdict(all(more) and all(best), all(more)), note)


def digits() -> list[Row]:
    """The gap of guidance 2 and 1 on the shipped digits, three seeds of 100."""
    from ornstein.model import load

    model, label = load("digits").denoiser, torch.arange(100) % 10
    rules = {"W2SD": ("method", guide(model, CFG(2.0)), 8, [W2SD(model)], 8 * 5 - 1),
             "CFG scale 2": ("equal-cost", guide(model, CFG(2.0)), 20, [], 40),
             "CFG scale 2, interval (0.2, 0.7)": ("equal-cost", guide(model, CFG(2.0, (0.2, 0.7))), 27, [], 40),
             "no guidance": ("reference", model, 40, [], 40)}  # fmt: skip
    rows = []
    for name, (kind, denoiser, steps, steer, calls) in rules.items():
        found = [quality(drawn(denoiser, (100, 1, 8, 8), steps, {"label": label}, s, controllers=steer), label) for s in range(3)]
        rows += [row(f"digits: {name}", kind, metric, [f[k] for f in found], calls)
                 for k, metric in enumerate(("Frechet distance, digits features (lower)", "accuracy (higher)"))]  # fmt: skip
    return rows
