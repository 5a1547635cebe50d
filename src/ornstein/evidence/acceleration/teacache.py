"""Evidence for TeaCache."""

from __future__ import annotations

import torch

from ornstein.acceleration.teacache import calibrate
from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("threshold=0", "threshold=0.1", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel")
CLAIM = ("On the digits DiT TeaCache, with the plain change of the modulated input, stays nearer to the full run than fewer "
         "steps of the same solver, and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """The polynomial is fitted on seed 77, and tried on seeds 0 to 3."""
    settings = [f"teacache:threshold={t}" for t in ((0.05, 0.1) if quick else (0.03, 0.05, 0.1, 0.2))]
    found, others = _ground.compare("dit", settings), []
    fitted = calibrate(_ground.model("dit")[0], (10, 1, 8, 8), catalog.build("solvers", "ddim"), _ground.STEPS,
                       cond={"label": torch.arange(10)}, seed=77)  # fmt: skip
    for name, part in (*((f"teacache:threshold={t} with a fitted polynomial",
                         {"name": "teacache", "threshold": t, "calibrated": fitted}) for t in (0.05, 0.1)),
                       ("firstblock:threshold=0.1", "firstblock:threshold=0.1")):  # fmt: skip
        drawn = _ground.draw("dit", part)
        others.append(Row(name, "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                          f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    note = (f"{_ground.model('dit')[1]} The polynomial of degree 4 leaves {fitted.settings['unexplained']:.2f} of the standard "
            "deviation of the output's change unexplained.")  # fmt: skip
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", "teacache:threshold=0.1")],
                    verdict(same and other, same), note)  # fmt: skip
