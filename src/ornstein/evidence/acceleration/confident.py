"""Evidence for the confidence-gated forecast."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("threshold=0", "threshold=0.03,check_order=1", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel")
CLAIM = ("On the digits DiT the forecast of the last block, gated by that of the first, stays nearer to the full run than fewer "
         "steps of the same solver, and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip
OTHERS = ("confident:threshold=0.1,order=2", "confident:threshold=0.1,decay=0.5", "confident:threshold=0.03,faithful=True",
          "taylorseer:interval=2")  # fmt: skip
SLOW = ("confident:threshold=0.1,payload=residual", "confident:threshold=0.1,verify=1", "taylorseer:interval=3")


def run(quick: bool = True) -> Evidence:
    settings = [f"confident:threshold={t}" for t in ((0.05, 0.1) if quick else (0.03, 0.05, 0.1, 0.2))]
    found, others = _ground.compare("dit", settings), []
    for text in OTHERS + (() if quick else SLOW):
        drawn = _ground.draw("dit", text)
        others.append(Row(text, "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                          f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", "confident:threshold=0.1")],
                    verdict(same and other, same), _ground.model("dit")[1])  # fmt: skip
