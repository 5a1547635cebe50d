"""Evidence for CLEAR."""

from __future__ import annotations

from ornstein.evidence import Evidence, verdict
from ornstein.evidence.acceleration import _attention, _ground

TRIAL = ("radius=0", "radius=2.1,warmup=1", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "UNet2DModel", "UNet2DConditionModel")
CLAIM = ("At 64x64 tokens windows of radius 4 at least halve the seconds of an attention-bound evaluation, and a short "
         "distillation takes back half of the error of windows with pooled keys on the digits DiT; the student stays nearer to "
         "the full run than a linear attention distilled as long, and than fewer steps of DPM-Solver++(2M) in the same "
         "seconds.")  # fmt: skip
LARGE = ("clear:radius=4", "clear:radius=8")
SMALL, POOLED = "clear:radius=2.1", "clear:radius=1.5,pool=2"


def run(quick: bool = True) -> Evidence:
    updates = 25 if quick else 200
    before, after = _attention.digits(POOLED), _attention.digits(POOLED, updates)
    linear, more = _attention.digits("linfusion", updates, "natural"), []
    if not quick:  # without pooled keys; and without training, local in the last steps alone
        more = [_attention.digits(SMALL), _attention.digits(SMALL, updates)]
        more += [_attention.digits(f"{SMALL},warmup={n}", kind="reference") for n in (10, 20, 30)]
    large = {side: _attention.many(side, LARGE, 2 if quick else 4) for side in ((32, 64) if quick else (16, 32, 64))}
    share = large[64][LARGE[0]].mean / large[64][""].mean
    others = _attention.fewer(share, f"{LARGE[0]} at 64 x 64 tokens")
    fast, back = share < 0.5, after.mean < 0.5 * before.mean
    holds = fast and back and after.mean < linear.mean and all(after.mean < r.mean for r in others)
    rows = [after, linear, *others, before, *more, *(r for rows in large.values() for r in rows.values())]
    return Evidence(CLAIM, rows, verdict(holds, fast), _ground.model("dit")[1])
