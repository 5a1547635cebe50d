"""Evidence for the first-block cache."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("threshold=0", "threshold=0.2", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel", "WanTransformer3DModel")
CLAIM = ("On the digits DiT the first-block cache stays nearer to the full run than fewer steps of the same solver, and "
         "than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    settings = [f"firstblock:threshold={t}" for t in ((0.1, 0.2) if quick else (0.05, 0.1, 0.2, 0.3))]
    found = _ground.compare("dit", settings)
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *_ground.seconds("dit", "firstblock:threshold=0.1")],
                    verdict(same and other, same), _ground.model("dit")[1])  # fmt: skip
