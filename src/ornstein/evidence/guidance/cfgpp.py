"""Evidence for CFG++: obedience and distance to the exact law, beside plain guidance, also in an interval, at equal calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Guidance, guide
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import bayes, blurred, classes, energy
from ornstein.guidance.cfg import CFG
from ornstein.guidance.cfgpp import CFGpp
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

from ._score import Counted, drawn, quality, row

STEPS, COUNT, SAME = 20, 240, 0.005
HIT = "share that the exact Bayes classifier gives to its label (higher)"
LAW = "energy distance to the exact law of the label (lower)"
CLAIM = ("Under DDIM with 20 steps CFG++ of strength 0.6 is closer to the exact law of the label than plain guidance that obeys as "
         "much, of any constant scale, and than plain guidance in an interval that does.")  # fmt: skip


@dataclass
class Figures:
    """Of one rule, over the seeds."""

    kind: str
    rule: Guidance
    hit: list[float] = field(default_factory=list)
    law: list[float] = field(default_factory=list)
    calls: int = 0

    def add(self, truth: Mixture, seed: int) -> None:
        cond, n, asked = {"label": torch.arange(COUNT) % truth.null}, truth.null, []
        x = drawn(guide(Counted(blurred(truth, 1.6), asked), self.rule), (COUNT, 8), STEPS, cond, seed)
        real = truth.sample(COUNT, seed, cond)
        self.hit.append((bayes(truth, x, range(n)).argmax(1) == cond["label"]).double().mean().item())
        self.law.append(sum(energy(x[k::n], real[k::n]) for k in range(n)) / n)
        self.calls = len(asked)


def mean_scale(strength: float) -> float:
    """The mean over the steps of the scale that CFG++ comes to."""
    model, x, rule = Mixture(torch.zeros(1, 1), torch.tensor(1.0), Flow()), torch.zeros(1, 1), CFGpp(strength)
    return strength * fmean(rule.growth(model, x, 1 - k / STEPS, Clock(k, 0, STEPS)) for k in range(STEPS))


def rules() -> dict[str, Figures]:
    mean = round(mean_scale(0.6), 2)
    plain = {f"CFG scale {w:g}": CFG(w) for w in (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)}
    plain |= {f"CFG scale {w:g}, interval (0.2, 0.7)": CFG(w, (0.2, 0.7)) for w in (1.5, 2.0, 3.0, 4.0, 6.0)}
    return ({f"CFG++ strength {v:g}": Figures("method", CFGpp(v)) for v in (0.6, 0.2, 0.4, 0.8, 1.0)}
            | {f"CFG scale {mean:g}, its mean scale": Figures("natural", CFG(mean))}
            | {name: Figures("equal-cost", rule) for name, rule in plain.items()})  # fmt: skip


def matched(mine: Figures, others: list[Figures]) -> bool:
    """Whether one of the others obeys as much and lies as close."""
    return any(fmean(o.hit) >= fmean(mine.hit) - SAME and fmean(o.law) <= fmean(mine.law) for o in others)


def run(quick: bool = True) -> Evidence:
    every = rules()
    for seed in range(5 if quick else 20):
        for figures in every.values():
            figures.add(classes(Flow(), seed, std=0.7), seed)
    rows = [row(name, f.kind, metric, values, f.calls) for name, f in every.items()
            for metric, values in ((HIT, f.hit), (LAW, f.law))]  # fmt: skip
    mine = every["CFG++ strength 0.6"]
    constant = [f for name, f in every.items() if f.kind != "method" and "interval" not in name]
    within = [f for name, f in every.items() if "interval" in name]
    free = [name for name, f in every.items() if f.kind == "method" and not matched(f, constant + within)]
    rows += [] if quick else digits()
    note = f"'partly': only than constant scales. CFG++ that no plain guidance matches: {', '.join(free) or 'none'}."
    return Evidence(CLAIM, rows, verdict(not matched(mine, constant + within), not matched(mine, constant)), note)


def digits() -> list[Row]:
    """The shipped digits, 12 steps, three seeds of 100."""
    from ornstein.model import load

    model, label, rows = load("digits").denoiser, torch.arange(100) % 10, []
    named = {"CFG++ strength 0.6": ("method", CFGpp(0.6)), "CFG++ strength 0.2": ("method", CFGpp(0.2)),
             "CFG scale 1.5": ("natural", CFG(1.5)), "CFG scale 2": ("natural", CFG(2.0)),
             "CFG scale 1.5, interval (0.2, 0.7)": ("equal-cost", CFG(1.5, (0.2, 0.7)))}  # fmt: skip
    for name, (kind, rule) in named.items():
        asked: list = []
        cond = {"label": label}
        found = [quality(drawn(guide(Counted(model, asked), rule), (100, 1, 8, 8), 12, cond, s), label) for s in range(3)]
        rows += [row(f"digits: {name}", kind, metric, [f[k] for f in found], len(asked) // 3)
                 for k, metric in enumerate(("Frechet distance, digits features (lower)", "accuracy (higher)"))]  # fmt: skip
    return rows
