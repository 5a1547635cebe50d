"""Strong guidance by another rule, beside plain guidance at that scale and at lower ones, judged by the exact law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from ornstein.core.denoiser import Guidance
from ornstein.evidence import Evidence, verdict
from ornstein.evidence._laws import blurred, classes
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

from ._trial import Trial

__all__ = ["SCALE", "strong"]

SCALE, LOWER, STEPS, SAME = 6.0, (1.5, 2.0, 3.0, 4.0, 5.0), 20, 0.005
Rules = Mapping[str, tuple[Guidance, ...]]
NOTE = (f"'holds' asks that plain guidance of no lower scale, nor within an interval, obeys as much (to within {SAME}) and lies as "
        "close to the law; 'partly', that it is farther at the same scale. Judged is the first method.")  # fmt: skip


def overlapping(seed: int) -> Mixture:
    """Four labels of three Gaussians each, wide enough that labels are in doubt."""
    return classes(Flow(), seed, std=0.7)


def strong(claim: str, methods: Rules, quick: bool, bed: Callable[[int], Mixture] = overlapping,
           others: Rules | None = None) -> Evidence:  # fmt: skip
    """Five seeds, each with a mixture of its own, and a model of 1.6 times its standard deviations."""
    plain = {f"CFG scale {w:g}": (CFG(w),) for w in LOWER}
    plain |= {f"CFG scale {w:g}, interval (0.2, 0.7)": (CFG(w, (0.2, 0.7)),) for w in (*LOWER[1:4], SCALE)}
    rules = {**methods, f"CFG scale {SCALE:g}": (CFG(SCALE),), **plain, **(others or {})}
    kinds = ["method"] * len(methods) + ["natural"] + ["equal-cost"] * len(plain) + ["reference"] * len(others or {})
    trials = [Trial(name, kind) for name, kind in zip(rules, kinds)]
    for seed in range(5 if quick else 20):
        truth = bed(seed)
        model = blurred(truth, 1.6)
        for trial, rule in zip(trials, rules.values()):
            trial.add(truth, model, rule, STEPS, seed, 240)
    mine, same = trials[0], trials[len(methods)]
    closer = all(a < b for a, b in zip(mine.law, same.law))
    plainly = [t for t in trials if t.kind == "equal-cost"]
    ahead = {t.name: [o.name for o in plainly if fmean(o.hit) >= fmean(t.hit) - SAME and fmean(o.law) <= fmean(t.law)]
             for t in trials if t.kind == "method"}  # fmt: skip
    free = ", ".join(name for name, found in ahead.items() if not found) or "none"
    beaten = ahead[mine.name]
    note = f"{NOTE} As obedient and as close: {', '.join(beaten) or 'none'}. Methods that no plain guidance matches: {free}."
    return Evidence(claim, [row for trial in trials for row in trial.rows()], verdict(closer and not beaten, closer), note)
