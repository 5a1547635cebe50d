"""Evidence for attention broadcast."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("attention=1,cross_attention=1,temporal=1", "attention=2,mlp=3,window=(0.05,1)", ("dit", "unet"))
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
           "WanTransformer3DModel", "CogVideoXTransformer3DModel", "UNet2DConditionModel")  # fmt: skip
CLAIM = ("On the digits DiT outputs of attention and mlp reused for two or three evaluations (FORA) stay nearer to the full run "
         "than fewer steps of the same solver, and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip
PYRAMID = ("attention=4,window=(0,1)", "attention=4", "mlp=4,attention=1", "attention=4,mlp=2")


def run(quick: bool = True) -> Evidence:
    settings = [f"broadcast:attention={n},mlp={n},window=(0,1)" for n in ((2, 3) if quick else (2, 3, 4, 5))]
    found, others = _ground.compare("dit", settings), []
    for text in PYRAMID:
        drawn = _ground.draw("dit", f"broadcast:{text}")
        others.append(Row(f"broadcast:{text}", "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                          f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", settings[-1])],
                    verdict(same and other, same), _ground.model("dit")[1])  # fmt: skip
