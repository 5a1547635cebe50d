"""Evidence for autoguidance: a blurred model guided by a more blurred one, against the exact law, CFG and more
steps."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence._laws import blurred, classes
from ornstein.guidance.autoguidance import Autoguidance
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow

from ._trial import Trial

CLAIM = ("Where the good model errs by 1.6 times the true standard deviations and the bad one, in the same direction, by 2.2 "
         "times, scale 2 comes closer to the exact law of the label than the unguided model with twice the steps and than CFG "
         "at the same cost and scale; where the bad model is bad in another way (too narrow) it does harm.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """Five seeds, each with a mixture of its own: 4 labels of 3 Gaussians in 8 dimensions, DPM-Solver++(2M)."""
    plain, double = Trial("unguided, 20 steps", "natural"), Trial("unguided, 40 steps", "equal-cost")
    method, cfg = Trial("autoguidance scale 2", "method"), Trial("CFG scale 2", "equal-cost")
    wrong, exact = Trial("autoguidance, bad model too narrow", "reference"), Trial("exact model, unguided", "floor")
    for seed in range(5 if quick else 20):
        truth = classes(Flow(), seed)
        model = blurred(truth, 1.6)
        plain.add(truth, model, (), 20, seed)
        double.add(truth, model, (), 40, seed)
        cfg.add(truth, model, (CFG(2.0),), 20, seed)
        method.add(truth, model, (Autoguidance(blurred(truth, 2.2), 2.0),), 20, seed)
        wrong.add(truth, model, (Autoguidance(blurred(truth, 1.0), 2.0),), 20, seed)
        exact.add(truth, truth, (), 20, seed)
    for trial in (method, wrong):
        trial.calls *= 2  # the bad model is as large as the good one here
    closer = all(a < b for a, b in zip(method.law, double.law))
    better = all(a < b for a, b in zip(method.law, cfg.law))
    harm = all(a > b for a, b in zip(wrong.law, plain.law))
    rows = [row for trial in (method, plain, double, cfg, wrong, exact) for row in trial.rows()]
    return Evidence(CLAIM, rows, verdict(closer and better and harm, closer))
