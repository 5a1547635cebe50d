"""Evidence for feature inheritance at calibrated steps."""

from __future__ import annotations

import math
from typing import Any

import torch

from ornstein.acceleration.stepreuse import StepReuse, calibrate, steps_between, with_share
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("", "at=(1,2,4,5,7,9)", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
           "UNet2DConditionModel")  # fmt: skip
CLAIM = ("On the digits models features inherited at calibrated steps stay nearer to the full run than as many inherited at "
         "evenly spaced steps, and than fewer steps of the same solver at equal FLOPs.")  # fmt: skip
GRAINS = (("dit", "branch"), ("dit", "block"), ("unet", "stage"))


def schedule(backbone: str, grain: str, share: float) -> Artefact:
    """Calibrated on seed 77, which is not in the rows."""
    cond = {"label": torch.arange(10)}
    found = calibrate(_ground.model(backbone)[0], (10, 1, 8, 8), catalog.build("solvers", "ddim"), _ground.STEPS, 0.1,
                      StepReuse(grain), cond=cond, seed=77)  # fmt: skip
    return with_share(found, share)


def row(kind: str, backbone: str, name: str, drawn: Any) -> Row:
    cost = f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"
    return Row(f"{backbone}: {name}", kind, _ground.FULL, _ground.distances(backbone, drawn.x), cost)


def run(quick: bool = True) -> Evidence:
    rows, even, same, best = [], [], [], []
    for backbone, grain in GRAINS:
        for interval in (2,) if quick else (2, 3, 4):
            at = steps_between(0, _ground.STEPS, interval)
            found = schedule(backbone, grain, len(at) / _ground.STEPS)
            mine = _ground.draw(backbone, StepReuse(schedule=found))
            spaced = _ground.draw(backbone, StepReuse(grain, at))
            n = math.ceil(max(mine.evaluations, spaced.evaluations) - 0.01)
            what, suffix = f"{grain} grain, one in {interval}", f", beside {grain} grain, one in {interval}"
            mine = row("method", backbone, f"calibrated, {what}", mine)
            others = [row("natural", backbone, f"evenly spaced, {what}", spaced),
                      *(row("equal-cost", backbone, f"{s}, {n} steps{suffix}", _ground.plain(backbone, n, s))
                        for s in ("ddim", "dpmpp2m"))]  # fmt: skip
            rows += [mine, *others]
            for wins, than in ((even, "evenly"), (same, "ddim"), (best, "dpmpp2m")):
                wins.append(_ground.better([mine, *others], f"{backbone}: {than}"))
    settings = f"stepreuse:grain=block,at={steps_between(0, 10, 2)}".replace(" ", "")
    note = f"{_ground.model('dit')[1]} Nearer than dpmpp2m: {sum(best)} of {len(best)}."
    return Evidence(CLAIM, [*rows, *_ground.seconds("dit", settings)], verdict(all(even + same), all(even)), note)
