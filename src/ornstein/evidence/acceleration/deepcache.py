"""Evidence for DeepCache."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("interval=1", "interval=3", ("unet",))  # never skips, skips, the backbones that it fits
FOREIGN = ("UNet2DModel", "UNet2DConditionModel")
CLAIM = ("On the digits U-Net DeepCache stays nearer to the full run than fewer steps of the same solver, and than fewer "
         "steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    settings = [f"deepcache:interval={n}" for n in ((2, 4) if quick else (2, 3, 4, 5, 8))]
    found = _ground.compare("unet", settings)
    same, other = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *_ground.seconds("unet", "deepcache:interval=3")],
                    verdict(same and other, same), _ground.model("unet")[1])  # fmt: skip
