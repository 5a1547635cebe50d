"""Evidence for DeeDiff: heads learned here in seconds, against a fixed exit and what else as many FLOPs buy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ornstein.acceleration.deediff import DeeDiff
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._flops import Flops
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._learned import SHAPE, below, digits, others, part, row
from ornstein.recipes.train_deediff import Recipe, train_deediff

TRIAL = ("threshold=0", "threshold=0.2", ("dit",))  # never skips, skips, the backbones that it fits
CLAIM = ("On the digits DiT leaving by learned uncertainty stays nearer to the full run than leaving after a fixed block in as "
         "many steps as cost the same, and than fewer steps of DDIM or of DPM-Solver++(2M), at equal FLOPs, heads counted.")


def share(width: int) -> float:
    """FLOPs of one sample's exit, D^2 per token, over those of one evaluation of it."""
    net = _ground.model("dit")[0].backbone
    with Flops() as counted, torch.no_grad():
        net(torch.zeros(1, *SHAPE), torch.ones(1), {"label": torch.zeros(1, dtype=torch.long)})
    tokens = (SHAPE[1] // net.patch) * (SHAPE[2] // net.patch)
    return 2 * tokens * width**2 / counted.total


@dataclass(frozen=True)
class AtSteps(DeeDiff):
    """Every sample leaves after block `always` in the steps from `begin` to before `end`, and nowhere else."""

    begin: int = 0
    end: int = 0

    def around(self, site: Any, clock: Any, streams: Any, run: Any, memory: dict) -> Any:
        return super().around(site, clock, streams, run, memory) if self.begin <= clock.step < self.end else run(streams)


def run(quick: bool = True) -> Evidence:
    denoiser, rows, wins, spent = _ground.model("dit")[0], [], [], {}
    began = time.perf_counter()
    full = _ground.draw("dit").x
    spent["full"] = time.perf_counter() - began
    found = train_deediff(denoiser, SHAPE, digits, Recipe(samples=24))
    one, batch, last = share(found.arrays["out"].shape[-1]), _ground.SEEDS * _ground.EACH, len(found.arrays["out"]) - 1

    def tried(name: str, kind: str, plugin: Any) -> tuple[Row, float]:
        began = time.perf_counter()
        drawn = _ground.draw("dit", plugin)
        spent[name] = time.perf_counter() - began
        extra = one * drawn.record.facts["deediff"]["cond"].get("exits", 0) / batch
        return row(name, kind, drawn, full, _ground.FULL, extra), drawn.evaluations + extra

    for threshold in (0.1, 0.2) if quick else (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        mine, cost = tried(f"deediff:threshold={threshold}, learned", "method", part("deediff", found, threshold=threshold))
        saved = 1 - sum(v for k, v in _ground.flops("dit").items() if k == f"blocks.{last + 1}") + one
        count = min(int((_ground.STEPS - cost) / (1 - saved)), _ground.STEPS)  # of fixed exits, for as many FLOPs or more
        fixed = [tried(f"all leave after block {last} in the {where} {count} steps", "equal-cost",
                       AtSteps(0.5, found, last, begin=begin, end=begin + count))[0]
                 for where, begin in (("first", 0), ("last", _ground.STEPS - count))][: 1 if count == _ground.STEPS else 2]
        beside = [*fixed, *others(cost, full, _ground.FULL, f"threshold={threshold}")]
        rows += [mine, *beside]
        wins.append((all(below(mine, b) for b in fixed), all(below(mine, b) for b in beside)))
    for kind, name in (("reference", "full"), ("method", "deediff:threshold=0.2, learned")):
        metric = f"seconds for {_ground.STEPS} steps of {batch} (lower)"
        rows.append(Row(f"digits DiT, {name}", kind, metric, [spent[name]]))
    errors = ", ".join(f"{e:.2f}" for e in found.settings["error"])
    return Evidence(CLAIM, rows, verdict(all(w[1] for w in wins), all(w[0] for w in wins)),
                    f"{_ground.model('dit')[1]} Mean error u* of leaving after each block: {errors}.")  # fmt: skip
