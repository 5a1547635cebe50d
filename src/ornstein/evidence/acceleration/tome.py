"""Evidence for token merging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.acceleration.tome import ToMe
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground, _tokens

TRIAL = ("ratio=0", "ratio=0.25,least=4,window=(0,0.9)", ("dit", "unet"))  # never merges, merges, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel")
CLAIM = ("Merging a quarter of the tokens in attention stays nearer to the full run than fewer steps at equal FLOPs, on the "
         "digits DiT; merging the most alike does less harm than merging at random.")  # fmt: skip


@dataclass(frozen=True)
class Blind(ToMe):
    """Merges as many, into destinations and from sources that a hash picks."""

    def _match(self, x: Tensor, step: int, gone: int) -> dict[str, Tensor]:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(step))
        return super()._match(noise.to(x), step, gone)


def run(quick: bool = True) -> Evidence:
    settings = [f"tome:ratio={r}" for r in ((0.25,) if quick else (0.125, 0.25, 0.5))]
    found = _ground.compare("dit", settings)
    others = [_tokens.beside(Blind(0.25), "tome:ratio=0.25, matched at random")]
    if not quick:
        others += [_tokens.beside(s) for s in ("tome:ratio=0.25,wander=False", "tome:ratio=0.25,roles=('attention','mlp')")]
        others += sum(_ground.compare("unet", ["tome:ratio=0.25,least=4"]).values(), [])
    mine = found["tome:ratio=0.25"]
    steps, sense = all(_ground.better(rows, "ddim") for rows in found.values()), _tokens.nearer(mine[0], others[0])
    timed: list[Row] = _tokens.seconds(["tome:ratio=0.5", "tome:ratio=0.75"], "1024 tokens")
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *timed], verdict(steps and sense, sense or steps),
                    _ground.model("dit")[1])  # fmt: skip
