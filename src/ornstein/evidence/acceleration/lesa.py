"""Evidence for LESA: coefficients learned here in a second, against Taylor's and what else as many FLOPs buy."""

from __future__ import annotations

from dataclasses import replace

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._learned import SHAPE, below, digits, others, part, row
from ornstein.recipes.train_lesa import Recipe, train_lesa

TRIAL = ("interval=1", "interval=3", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
CLAIM = ("On the digits DiT LESA's predictor, learned in closed form from 8 trajectories per stage of other seeds, stays nearer "
         "to the full run than Taylor's order 1 at the same place, than TaylorSeer, and than fewer steps of DDIM or of "
         "DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    rows, wins, denoiser = [], [], _ground.model("dit")[0]
    full, true = (_ground.reference("dit", which) for which in (False, True))
    for n in (3, 4) if quick else (2, 3, 4, 5, 6):
        recipe = Recipe(interval=n, steps=_ground.STEPS, samples=8)
        text, found = f"lesa:interval={n}", train_lesa(denoiser, SHAPE, digits, recipe)
        drawn = _ground.draw("dit", part("lesa", found, interval=n))
        mine = row(f"{text}, learned", "method", drawn, full, _ground.FULL)
        beside = [row(f"{text}, not learned (Taylor)", "equal-cost", _ground.draw("dit", text), full, _ground.FULL),
                  row(f"taylorseer:interval={n}", "equal-cost", _ground.draw("dit", f"taylorseer:interval={n}"), full,
                      _ground.FULL), *others(drawn.evaluations, full, _ground.FULL, text)]  # fmt: skip
        parts = (("stage 1 alone", {"rounds": 0}), ("one expert", {"experts": 1}))
        for label, change in parts if n == 3 or not quick else ():
            other = train_lesa(denoiser, SHAPE, digits, replace(recipe, **change))
            rows.append(row(f"{text}, {label}", "reference", _ground.draw("dit", part("lesa", other, interval=n)), full,
                            _ground.FULL))  # fmt: skip
        rows += [mine, *beside, row(mine.name, "method", drawn, true, _ground.TRUE),
                 others(drawn.evaluations, true, _ground.TRUE, text)[1]]  # fmt: skip
        wins.append([below(mine, b) for b in beside])
    rows += _ground.seconds("dit", "lesa:interval=3")
    return Evidence(CLAIM, rows, verdict(all(map(all, wins)), all(w[0] and w[2] for w in wins)), _ground.model("dit")[1])
