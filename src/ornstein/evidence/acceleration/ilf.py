"""Evidence for Inner Loop Feedback, with the shipped feedback: 3000 updates of recipes/train_ilf on the digits DiT."""

from __future__ import annotations

import math

from ornstein.acceleration.ilf import ILF
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground
from ornstein.evidence.acceleration._learned import SHAPE, below, digits, row
from ornstein.recipes.train_ilf import Recipe, train_ilf

TRIAL = ("interval=1", "interval=2", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
CLAIM = ("On the digits DiT the shipped feedback, in place of all blocks in every second evaluation or in two of three, stays "
         "nearer to the full run than kept features, than fewer steps of DDIM or of DPM-Solver++(2M) at equal FLOPs, and than "
         "Taylor's order 1 at the same place.")  # fmt: skip
SHIPPED = catalog.ROOT / "models" / "digits" / "ilf.safetensors"


def extra(found: Artefact, inner: float) -> float:
    """What f itself costs in `inner` evaluations, in full ones: its products over those of 12 D^2 L per token."""
    inside = sum(found.arrays[k].numel() for k in ("down", "qkv", "out", "mlp_in", "mlp_out", "up"))
    width, depth = len(found.arrays["up"]), len(_ground.model("dit")[0].backbone.blocks)
    return inner * inside / (12 * width**2 * depth)


def rows(found: Artefact, n: int) -> tuple[list[Row], list[bool]]:
    """Of one interval; and whether the learned feedback is nearer than each of what it is compared with."""
    full, true = (_ground.reference("dit", which) for which in (False, True))
    text, drawn = f"ilf:interval={n}", _ground.draw("dit", ILF(n, predictor=found))
    more = extra(found, drawn.record.facts["ilf"]["cond"]["inner_evaluations"])
    steps = math.ceil(drawn.evaluations + more - 0.01)
    lines = [(f"{text}, learned", "method", drawn, more),
             (f"{text}, gamma = 0 (kept features)", "equal-cost", _ground.draw("dit", text), 0.0),
             (f"ddim, {steps} steps, beside {text}", "natural", _ground.draw("dit", steps=steps), 0.0),
             (f"dpmpp2m, {steps} steps, beside {text}", "equal-cost", _ground.draw("dit", steps=steps, solver="dpmpp2m"), 0.0),
             (f"lesa:interval={n} (Taylor's order 1)", "equal-cost", _ground.draw("dit", f"lesa:interval={n}"), 0.0)]  # fmt: skip
    made = [row(name, kind, d, truth, metric, e) for truth, metric in ((full, _ground.FULL), (true, _ground.TRUE))
            for name, kind, d, e in lines]  # fmt: skip
    return made, [below(made[0], r) for r in made[1:5]]


def run(quick: bool = True) -> Evidence:
    made = [rows(Artefact.load(SHIPPED, "ilf"), n) for n in (2, 3)]
    found, wins = sum((r for r, _ in made), []), [w for _, w in made]
    if not quick:  # half of the blocks passed by
        half = train_ilf(_ground.model("dit")[0], SHAPE, digits, Recipe(passed=3, interval=2, updates=1500))
        found.append(row("ilf:interval=2,passed=3, learned", "reference", _ground.draw("dit", ILF(2, 3, half)),
                         _ground.reference("dit", False), _ground.FULL))  # fmt: skip
    found += _ground.seconds("dit", "ilf:interval=2")
    note = f"{_ground.model('dit')[1]} The FLOPs of the feedback itself are counted; the larger network's seconds are without one."
    return Evidence(CLAIM, found, verdict(all(map(all, wins)), all(all(w[:2]) for w in wins)), note)
