"""Evidence for region-adaptive sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.acceleration.layers.tokens import best
from ornstein.acceleration.ras import RAS
from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground, _tokens

TRIAL = ("ratio=1", "ratio=0.25,warmup=2,refresh=2", ("dit",))  # all tokens active, a quarter, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel")
CLAIM = ("At half the tokens the chosen active set stays nearer to the full run than a random one, and than fewer steps of "
         "the same solver at equal FLOPs, on the digits DiT.")  # fmt: skip
OTHERS = ("sign=-1", "sign=-1,faithful=True", "measure='change'", "keys=False")
EMOJI = "relative distance to the full 20-step run, emoji model (lower)"


@dataclass(frozen=True)
class Blind(RAS):
    """As many active tokens, the same for all samples, by chance."""

    def _choose(self, memory: dict) -> Tensor:
        rank = torch.rand(memory["score"].shape[1], generator=torch.Generator().manual_seed(memory["calls"]))
        return best(rank.expand(memory["score"].shape), round(self.ratio * len(rank)))


def run(quick: bool = True) -> Evidence:
    settings = [f"ras:ratio={r}" for r in ((0.5,) if quick else (0.25, 0.5, 0.75))]
    found = _ground.compare("dit", settings)
    others = [_tokens.beside(Blind(0.5), "ras:ratio=0.5, chosen at random")]
    if not quick:
        others += [*(_tokens.beside(f"ras:ratio=0.5,{o}") for o in OTHERS), *emoji(["ras", "ras:measure='change'"])]
    chosen = _tokens.nearer(found["ras:ratio=0.5"][0], others[0])
    steps = all(_ground.better(rows, "ddim") for rows in found.values())
    timed = _tokens.seconds(["ras:ratio=0.5,warmup=2", "ras:ratio=0.5,warmup=2,keys=False"])
    return Evidence(CLAIM, [*sum(found.values(), []), *others, *timed], verdict(chosen and steps, chosen or steps),
                    _ground.model("dit")[1])  # fmt: skip


def emoji(plugins: Sequence[Any]) -> list[Row]:
    """The shipped text model of 64 tokens: each prompt counts as a seed. Beside fewer steps, at as many block evaluations."""
    from ornstein.model import load

    model = load("emoji")
    cond = model.encode(["a red apple", "a smiling cat", "a blue car", "a green tree"])

    def draw(plugin: Any, steps: int, solver: str = "ddim") -> tuple[Tensor, float]:
        run = Run()
        detach = attach(model.denoiser.backbone, catalog.build("acceleration", plugin)) if plugin else (lambda: None)
        x = sample(model.denoiser, (4, *model.shape), catalog.build("solvers", solver), steps, cond=cond, run=run)
        detach()
        done, asked = ([v for k, v in c.items() if k.endswith(("/block", "/branch"))] for c in
                       (run.record.computed_at, run.record.asked_at))  # fmt: skip
        return x, steps * sum(done) / sum(asked) if plugin else steps

    full, rows = draw(None, 20)[0].flatten(1), []
    for plugin in plugins:
        x, cost = draw(plugin, 20)
        n = -int(-cost // 1)
        for kind, name, y in (("method", plugin, x), ("natural", f"ddim, {n} steps", draw(None, n)[0]),
                              ("equal-cost", f"dpmpp2m, {n} steps", draw(None, n, "dpmpp2m")[0])):  # fmt: skip
            gap = (y.flatten(1) - full).norm(dim=1) / full.norm(dim=1)
            rows.append(Row(f"emoji, {name}", kind, EMOJI, gap.tolist(), f"{cost if kind == 'method' else n:.1f} evaluations"))
    return rows
