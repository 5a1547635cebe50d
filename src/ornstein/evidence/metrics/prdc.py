"""Evidence for precision, recall, density, coverage: fidelity apart from variety, and what one outlier does."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.frechet import between
from ornstein.metrics.prdc import per_sample

from ._stimuli import damage, digits

CLAIM = ("Noise lowers precision more than recall and density more than coverage, dropping half of the classes does "
         "the reverse, where the Frechet distance rises for both; 2% outliers inflate precision more than density.")


def run(quick: bool = True) -> Evidence:
    """Three seeds of 600 digits a side at 8x8, pixels as features."""
    x, y = digits()
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(3 if quick else 10):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        real, labels = x[order[:600]], y[order[600:]]
        rest = x[order[600:]]
        cases = {"real": rest[:600], "noise 0.3": damage(rest[:600], "noise", 0.3, seed),
                 "5 of 10 classes": rest[labels < 5][:590]}  # fmt: skip
        outliers = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        spoiled = torch.cat([real, outliers])
        for name, images in cases.items():
            note(found, name, images, real)
        note(found, "noise 0.6", damage(rest[:600], "noise", 0.6, seed), real)
        note(found, "noise 0.6, outliers", damage(rest[:600], "noise", 0.6, seed), spoiled)
    rows = [Row(q, kind, f"{case} (higher)", found[case][q])
            for case, kind in (("real", "floor"), ("noise 0.3", "method"), ("5 of 10 classes", "method"))
            for q in ("precision", "density", "recall", "coverage")]  # fmt: skip
    rows += [Row("frechet", "floor" if case == "real" else "natural", f"{case} (lower)", found[case]["frechet"])
             for case in ("real", "noise 0.3", "5 of 10 classes")]  # fmt: skip
    gain = {q: [b - a for a, b in zip(found["noise 0.6"][q], found["noise 0.6, outliers"][q])]
            for q in ("precision", "density")}  # fmt: skip
    rise = "rise by 2% outliers, noise 0.6 (0 is right)"
    rows += [Row("density", "method", rise, gain["density"]), Row("precision", "equal-cost", rise, gain["precision"])]
    return Evidence(CLAIM, rows, *judge(found, gain))


def note(found: dict, case: str, images: torch.Tensor, real: torch.Tensor) -> None:
    """Add the five figures of one case."""
    g, r = images.flatten(1).double(), real.flatten(1).double()
    figures = {name: each.mean().item() for name, each in per_sample(g, r, 5).items()} | {"frechet": between(g, r)}
    for name, value in figures.items():
        found.setdefault(case, {}).setdefault(name, []).append(value)


def judge(found: dict, gain: dict) -> tuple[str, str]:
    """Verdict, and which part of the claim failed."""
    def lost(case: str, quantity: str) -> float:
        return 1 - sum(found[case][quantity]) / sum(found["real"][quantity])

    noise, half = "noise 0.3", "5 of 10 classes"
    parts = {"noise lowers precision more than recall": lost(noise, "precision") > lost(noise, "recall"),
             "noise lowers density more than coverage": lost(noise, "density") > lost(noise, "coverage"),
             "dropped classes lower recall more than precision": lost(half, "recall") > lost(half, "precision"),
             "dropped classes lower coverage more than density": lost(half, "coverage") > lost(half, "density"),
             "outliers inflate precision more": sum(gain["precision"]) > sum(gain["density"]) + 0.01}  # fmt: skip
    failed = [name for name, ok in parts.items() if not ok]
    said = "Did not hold: " + "; ".join(failed) + "." if failed else ""
    return verdict(not failed, len(failed) <= 2), said
