"""Evidence for TaylorSeer."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("interval=1", "interval=3,order=2", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "UNet2DConditionModel")
CLAIM = ("On the digits DiT forecast branches (order 1) stay nearer to the full run than fewer steps of the same solver, "
         "and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip
OTHERS = ("interval=4,order=0", "interval=4,order=2", "interval=4,order=2,faithful=True")  # reuse, Newton, as published


def run(quick: bool = True) -> Evidence:
    settings = [f"taylorseer:interval={n}" for n in ((3, 4) if quick else (2, 3, 4, 5, 6))]
    found, others = _ground.compare("dit", settings), []
    for text in OTHERS:
        drawn = _ground.draw("dit", f"taylorseer:{text}")
        others.append(Row(f"taylorseer:{text}", "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                          f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", "taylorseer:interval=3")],
                    verdict(same and other, same), _ground.model("dit")[1])  # fmt: skip
