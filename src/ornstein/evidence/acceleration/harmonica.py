"""Evidence for HarmoniCa: a table learned here in seconds, against the uniform table and what else as many FLOPs buy."""

from __future__ import annotations

from dataclasses import replace

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._learned import SHAPE, below, digits, others, part, row
from ornstein.recipes.train_harmonica import Recipe, train_harmonica

TRIAL = ("interval=1", "interval=3", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "UNet2DConditionModel")
STEPS = 10  # the publication's T for DiT; training sees each of them once per trajectory
METRIC = f"relative distance to the full {STEPS}-step run (lower)"
CLAIM = ("On the digits DiT with 10 steps a HarmoniCa table, learned from 20 trajectories of other seeds, stays nearer to the "
         "full run than the uniform table of at most as many FLOPs, and than fewer steps of DDIM or of DPM-Solver++(2M).")


def run(quick: bool = True) -> Evidence:
    denoiser, full = _ground.model("dit")[0], _ground.draw("dit", steps=STEPS)
    recipe = Recipe(steps=STEPS, share=0.5, trajectories=20, batch=4, lr=0.3, proxy_every=8, beta=1e-3)
    recipe = recipe if quick else replace(recipe, trajectories=100, lr=0.1, proxy_every=20)
    tables = {"learned": train_harmonica(denoiser, SHAPE, digits, recipe)}
    if not quick:
        blind = replace(recipe, proxy_every=0)
        tables["learned without the image-error proxy"] = train_harmonica(denoiser, SHAPE, digits, blind)
    drawn = {k: _ground.draw("dit", part("harmonica", v), steps=STEPS) for k, v in tables.items()}
    rows = [row(f"harmonica, {k}", "method" if k == "learned" else "reference", d, full.x, METRIC) for k, d in drawn.items()]
    mine = rows[0]
    uniform = [_ground.draw("dit", f"harmonica:interval={n}", steps=STEPS) for n in (2, 3, 4, 5)]
    same = next((k for k, d in enumerate(uniform) if d.evaluations <= drawn["learned"].evaluations + 0.05), 3)
    beside = [row(f"harmonica:interval={same + 2}, the uniform table (FORA)", "equal-cost", uniform[same], full.x, METRIC),
              *others(drawn["learned"].evaluations, full.x, METRIC, "learned")]  # fmt: skip
    wins = [below(mine, b) for b in beside]
    computed = (tables["learned"].arrays["router"].sigmoid() > recipe.threshold).sum(1).tolist()
    note = f"{_ground.model('dit')[1]} Branches of 12 computed at each step: {', '.join(map(str, [12, *computed[1:]]))}."
    rows += [*beside, *_ground.seconds("dit", "harmonica:interval=3")]
    return Evidence(CLAIM, rows, verdict(all(wins), wins[0] and wins[1]), note)
