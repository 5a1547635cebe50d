"""Evidence for Delta-DiT."""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground

TRIAL = ("interval=1", "interval=2,share=0.5", ("dit",))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
           "WanTransformer3DModel")  # fmt: skip
CLAIM = ("On the digits DiT a rear span passed by early and a front span late stays nearer to the full run than the reverse, than "
         "fewer steps of the same solver and than fewer steps of DPM-Solver++(2M), at equal FLOPs.")  # fmt: skip
OTHERS = ("order=front_rear", "order=front,offset=False")


def run(quick: bool = True) -> Evidence:
    settings = [f"spandelta:share={s}" for s in ((0.5, 0.67) if quick else (0.17, 0.34, 0.5, 0.67, 0.83))]
    found, others, orders = _ground.compare("dit", settings), [], []
    for text in settings:
        for other in OTHERS if text == settings[0] else OTHERS[:1]:
            drawn = _ground.draw("dit", f"{text},{other}")
            others.append(Row(f"{text},{other}", "reference", _ground.FULL, _ground.distances("dit", drawn.x),
                              f"{drawn.evaluations:.1f} evaluations of {_ground.STEPS}"))  # fmt: skip
        orders.append(_ground.better([found[text][0], *others], f"{text},order=front_rear"))
    same, solver = (all(_ground.better(rows, than) for rows in found.values()) for than in ("ddim", "dpmpp2m"))
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *_ground.seconds("dit", settings[0])],
                    verdict(all(orders) and same and solver, same or all(orders)), _ground.model("dit")[1])  # fmt: skip
