"""Evidence for DiffSparse: shares allocated by dynamic programming, on noise that they were not measured on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.acceleration.diffsparse import DiffSparse, calibrate
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground, _tokens

TRIAL = ("share=0", "share=0.5", ("dit",))  # keeps nothing, keeps half, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel")
STEPS, KEPT = 6, 0.4
METRIC = f"relative distance to the full {STEPS}-step run, held-out noise (lower)"
CLAIM = (f"With {KEPT:.0%} of the layers' tokens kept over {STEPS} steps, allocated shares stay nearer to the full run than "
         "the same share everywhere, the same shares elsewhere, and fewer steps, on the digits DiT.")  # fmt: skip


def _drawn(part: Any, steps: int = STEPS, solver: str = "ddim") -> tuple[Tensor, float]:
    """Samples of four seeds that the calibration has not seen, and the evaluations that they cost."""
    net, run, n = _ground.model("dit")[0], Run(), 16
    detach = attach(net.backbone, part) if part else (lambda: None)
    x = sample(net, (n, 1, 8, 8), catalog.build("solvers", solver), steps, cond={"label": torch.arange(n) % 10},
               seed=[k // 4 for k in range(n)], run=run)  # fmt: skip
    detach()
    return x, _ground.evaluations("dit", run.record)


def run(quick: bool = True) -> Evidence:
    denoiser, samples = _ground.model("dit")[0], 4 if quick else 16
    levels = (0, 0.5, 1) if quick else (0, 0.25, 0.5, 0.75, 1)
    found = calibrate(denoiser, (samples, 1, 8, 8), catalog.build("solvers", "ddim"), STEPS, KEPT, levels=levels,
                      cond={"label": torch.arange(samples) * 3 % 10})  # fmt: skip
    shares = found.arrays["shares"]
    lines = [("method", "diffsparse, allocated", *_drawn(DiffSparse(table=found)))]
    lines.append(("natural", "diffsparse, the same share everywhere", *_drawn(DiffSparse(KEPT * STEPS / (STEPS - 1)))))
    for k in range(2 if quick else 5):  # the same shares in other places, the first step full
        order = torch.randperm(shares[1:].numel(), generator=torch.Generator().manual_seed(k))
        mixed = torch.cat([shares[:1], shares[1:].flatten()[order].view_as(shares[1:])])
        part = DiffSparse(table=Artefact("diffsparse", {"shares": mixed}))
        lines.append(("reference", f"diffsparse, shuffled {k}", *_drawn(part)))
    n = -int(-lines[0][3] // 1)
    lines += [("natural", f"ddim, {n} steps", *_drawn(None, n)),
              ("equal-cost", f"dpmpp2m, {n} steps", *_drawn(None, n, "dpmpp2m"))]  # fmt: skip
    full, rows = _drawn(None)[0].reshape(4, -1), []
    for kind, name, x, cost in lines:
        gap = (x.reshape(4, -1) - full).norm(dim=1) / full.norm(dim=1)
        rows.append(Row(name, kind, METRIC, gap.tolist(), f"{cost:.1f} evaluations of {STEPS}"))
    best = all(rows[0].mean < r.mean for r in rows[1:] if r.name.startswith("diffsparse"))
    steps = all(rows[0].mean < r.mean for r in rows if r.name.endswith("steps"))
    return Evidence(CLAIM, [*rows, *_tokens.seconds(["diffsparse:share=0.5"])], verdict(best and steps, best or steps),
                    f"{_ground.model('dit')[1]} Shares by step: {[round(v, 2) for v in shares.mean(1).tolist()]}.")  # fmt: skip
