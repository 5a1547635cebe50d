"""Evidence for switching between pruned versions of the digits DiT by an assembled table, against fewer steps."""

from __future__ import annotations

import math
import random

import torch

from ornstein.acceleration.switch import Switch, assemble
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _dynamic, _ground

SHARE, SUBNETS = 0.85, 2
CLAIM = (f"Versions of the digits DiT that lack one and two blocks, assembled over the steps by the greedy search into {SHARE:.0%} "
         "of the FLOPs, stay nearer to the full run than the same table shuffled, than the least harmful block left out in as many "
         "steps in their middle, than fewer steps of the same solver, and than fewer steps of DPM-Solver++(2M).")  # fmt: skip
STORES_NOTHING = True
TRIAL = ("", "subnets=((),(2,),(1,2)),table=(0,2,1,0,0,2,1,0,1,0)", ("dit",))  # the contract draws with 10 steps


def tables(quick: bool) -> dict[str, Switch]:
    """The search is on a seed that is not in the rows."""
    denoiser, depth = _ground.model("dit")[0], 6
    subnets = [_dynamic.leave_out(depth, k) for k in range(1, SUBNETS + 1)]
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(77))
    found = assemble(denoiser, noise, catalog.build("solvers", "ddim"), _ground.STEPS, subnets, SHARE,
                     {"label": torch.arange(10)}, exchanges=0 if quick else 60)  # fmt: skip
    mine = Switch(found=found)
    shuffled = list(mine.table)
    random.Random(0).shuffle(shuffled)
    gone = sum(len(mine.subnets[s]) for s in mine.table)
    early = (_ground.STEPS - gone) // 2
    middle = [int(early <= k < early + gone) for k in range(_ground.STEPS)]
    return {"switch: assembled": mine, "shuffled over the steps": Switch(mine.subnets, tuple(shuffled)),
            "one block less in the middle": Switch(((), tuple(subnets[0])), tuple(middle))}  # fmt: skip


def run(quick: bool = True) -> Evidence:
    found, metrics = [], ((_ground.FULL, False), (_ground.TRUE, True)) if not quick else ((_ground.FULL, False),)
    made = tables(quick)
    for name, part in made.items():
        drawn = _ground.draw("dit", part)
        found += [Row(name, "method" if part is made["switch: assembled"] else "equal-cost", metric,
                      _ground.distances("dit", drawn.x, true), f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}")
                  for metric, true in metrics]  # fmt: skip
    n = math.ceil(_ground.STEPS * SHARE - 0.01)
    for kind, solver in (("natural", "ddim"), ("equal-cost", "dpmpp2m")):
        drawn = _ground.draw("dit", steps=n, solver=solver)
        found += [Row(f"{solver}, {n} steps", kind, metric, _ground.distances("dit", drawn.x, true), f"{n} evaluations")
                  for metric, true in metrics]  # fmt: skip
    won = {name: _ground.better(found, name) for name in ("shuffled", "one block", "ddim", "dpmpp2m")}
    part = made["switch: assembled"]
    note = f"Sub-networks lack the blocks {part.subnets[1:]}; the table, noisiest step first: {''.join(map(str, part.table))}."
    return Evidence(CLAIM, found, verdict(all(won.values()), won["shuffled"] and won["one block"]), note)
