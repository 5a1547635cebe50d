"""Evidence for MagCache."""

from __future__ import annotations

import torch

from ornstein.acceleration.magcache import calibrate
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("threshold=0", "threshold=0.4", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel")
CLAIM = ("On the digits DiT, with ratios measured on it, MagCache stays nearer to the full run than fewer steps of the same "
         "solver, and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """The ratios are the default ones, of that model; those of another seed stand beside them."""
    settings = [f"magcache:threshold={t}" for t in ((0.06, 0.12) if quick else (0.03, 0.06, 0.12, 0.24))]
    found, others = _ground.compare("dit", settings), []
    own = calibrate(_ground.model("dit")[0], (10, 1, 8, 8), catalog.build("solvers", "ddim"), _ground.STEPS,
                    cond={"label": torch.arange(10)}, seed=77)  # fmt: skip
    few = calibrate(_ground.model("dit")[0], (10, 1, 8, 8), catalog.build("solvers", "ddim"), 10,
                    cond={"label": torch.arange(10)}, seed=77)  # fmt: skip
    for name, more in (("ratios of 40 steps, seed 77", {"calibrated": own}), ("ratios of 10 steps", {"calibrated": few}),
                       ("ratios of 10 steps, faithful", {"calibrated": few, "faithful": True})):  # fmt: skip
        drawn = _ground.draw("dit", {"name": "magcache", "threshold": 0.06, **more})
        others.append(Row(f"magcache:threshold=0.06, {name}", "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                          f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", "magcache:threshold=0.2")],
                    verdict(same and other, same), _ground.model("dit")[1])  # fmt: skip
