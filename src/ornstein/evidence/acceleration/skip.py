"""Evidence for skipping blocks: the least harmful block left out for half of the steps, against fewer steps."""

from __future__ import annotations

import math

import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.core.seam import attach
from ornstein.core.sites import find_sites
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

CLAIM = ("Leaving the least harmful block of the digits DiT out for a quarter or for half of the steps stays nearer to the full "
         "run than fewer steps of the same solver, and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip
STORES_NOTHING = True
TRIAL = ("", "blocks=((),(2,),(1,),(2,),(),(2,),(1,),(2,),(1,),())", ("dit",))  # the contract draws with 10 steps


def harm(block: int, steps: int = 4) -> float:
    """How far the samples of a seed that is not in the rows move where one block is left out in the middle half."""
    denoiser, out = _ground.model("dit")[0], []
    rows = ((),) * (steps // 4) + ((block,),) * (steps // 2) + ((),) * (steps // 4)
    for part in ((), catalog.build("acceleration", {"name": "skip", "blocks": rows})):
        detach = attach(denoiser.backbone, part) if part else (lambda: None)
        try:
            out.append(sample(denoiser, (10, 1, 8, 8), catalog.build("solvers", "ddim"), steps,
                              cond={"label": torch.arange(10)}, seed=77))  # fmt: skip
        finally:
            detach()
    return float((out[1] - out[0]).norm() / out[0].norm())


def run(quick: bool = True) -> Evidence:
    """The block is chosen on seed 77, and tried on seeds 0 to 3."""
    blocks = [s.depth for s in find_sites(_ground.model("dit")[0].backbone) if s.grain == "block"]
    harms = {b: harm(b) for b in blocks}
    least, found, wins = min(harms, key=harms.get), [], []
    for share in (0.25, 0.5) if quick else (0.1, 0.25, 0.5, 0.75):
        skipping = round(_ground.STEPS * share)
        early = (_ground.STEPS - skipping) // 2
        rows = ((),) * early + ((least,),) * skipping + ((),) * (_ground.STEPS - early - skipping)
        drawn = _ground.draw("dit", {"name": "skip", "blocks": rows})
        n = math.ceil(drawn.evaluations - 0.01)
        cost = f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"
        mine = Row(f"skip: block {least} in {skipping} steps", "method", _ground.FULL, _ground.distances("dit", drawn.x), cost)
        others = [Row(f"{solver}, {n} steps", kind, _ground.FULL,
                      _ground.distances("dit", _ground.draw("dit", steps=n, solver=solver).x), f"{n}.0 evaluations")
                  for kind, solver in (("natural", "ddim"), ("equal-cost", "dpmpp2m"))]  # fmt: skip
        found += [mine, *others]
        wins.append([_ground.better([mine, *others], than) for than in ("ddim", "dpmpp2m")])
    harmless = ", ".join(f"{b}: {h:.2f}" for b, h in harms.items())
    note = f"{_ground.model('dit')[1]} Relative change by the block left out: {harmless}."
    return Evidence(CLAIM, found, verdict(all(map(all, wins)), all(w[0] for w in wins)), note)
