"""Evidence for DeeDiff: heads learned here in seconds, against a fixed exit and what else as many FLOPs buy."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._learned import SHAPE, below, digits, others, part, row
from ornstein.recipes.train_deediff import Recipe, train_deediff

TRIAL = ("threshold=0", "threshold=0.2", ("dit",))  # never skips, skips, the backbones that it fits
CLAIM = ("On the digits DiT leaving by learned uncertainty stays nearer to the full run than leaving every evaluation after a "
         "fixed block, and than fewer steps of DDIM or of DPM-Solver++(2M), at equal FLOPs, heads counted.")  # fmt: skip


def share(width: int) -> float:
    """FLOPs of one sample's exit, D^2 per token, over those of one evaluation of it."""
    net = _ground.model("dit")[0].backbone
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *SHAPE), torch.ones(1), {"label": torch.zeros(1, dtype=torch.long)})
    tokens = (SHAPE[1] // net.patch) * (SHAPE[2] // net.patch)
    return 2 * tokens * width**2 / counter.get_total_flops()


def run(quick: bool = True) -> Evidence:
    denoiser, full = _ground.model("dit")[0], _ground.reference("dit", False)
    found = train_deediff(denoiser, SHAPE, digits, Recipe(samples=24))
    one, batch = share(found.arrays["out"].shape[-1]), _ground.SEEDS * _ground.EACH

    def tried(name: str, kind: str, settings: dict) -> tuple[Row, float]:
        drawn = _ground.draw("dit", part("deediff", found, **settings))
        extra = one * drawn.record.facts["deediff"]["cond"].get("exits", 0) / batch
        return row(name, kind, drawn, full, _ground.FULL, extra), drawn.evaluations + extra

    fixed = [tried(f"always leave after block {i}", "equal-cost", {"always": i}) for i in ((4, 3) if quick else (4, 3, 2, 1))]
    rows, wins = [r for r, _ in fixed], []
    for threshold in (0.1, 0.2) if quick else (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        mine, cost = tried(f"deediff:threshold={threshold}, learned", "method", {"threshold": threshold})
        dearer = [f for f in fixed if f[1] >= cost] or fixed[:1]  # in its favour; where there is none, the dearest there is
        beside = [dearer[-1][0], *others(cost, full, _ground.FULL, f"threshold={threshold}")]
        rows += [mine, *beside[1:]]
        wins.append([below(mine, b) for b in beside])
    for kind, name, plugin in (("reference", "full", None), ("method", "deediff:threshold=0.2, learned",
                                                            part("deediff", found, threshold=0.2))):  # fmt: skip
        spent = []
        for _ in range(2):
            began = time.perf_counter()
            _ground.draw("dit", plugin)
            spent.append(time.perf_counter() - began)
        rows.append(Row(f"digits DiT, {name}", kind, f"seconds for {_ground.STEPS} steps of {batch} (lower)", [min(spent)]))
    errors = ", ".join(f"{e:.2f}" for e in found.settings["error"])
    return Evidence(CLAIM, rows, verdict(all(map(all, wins)), all(w[0] for w in wins)),
                    f"{_ground.model('dit')[1]} Mean error u* of leaving after each block: {errors}.")  # fmt: skip
