"""Evidence for LinFusion."""

from __future__ import annotations

import math

import torch

from ornstein.acceleration.linfusion import linear
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _attention, _ground

STORES_NOTHING = True
TRIAL = ("share=0", "share=1,warmup=1", ("dit", "unet"))  # never skips, skips, the backbones that it fits
FOREIGN = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "UNet2DModel", "UNet2DConditionModel")
CLAIM = ("Linear attention takes seconds that grow at most as N^1.3 and not more memory than fused softmax attention, its "
         "answers keep their size at more tokens, and a short distillation takes back half of its error on the digits DiT; the "
         "student stays nearer to the full run than fewer steps of DPM-Solver++(2M) in the same seconds.")  # fmt: skip
TEXT, HALF = "linfusion", "linfusion:share=0.5"


def sizes(normalise: bool) -> Row:
    """Size of the answer at 64 x 64 random tokens over that at 16 x 16: one value per seed."""
    found = []
    for seed in range(4):
        q, k, v = torch.randn(3, 1, 4, 4096, 24, generator=torch.Generator().manual_seed(seed)) + 1
        few, many = (linear(q[:, :, :n], k[:, :, :n], v[:, :, :n], normalise).norm() / n**0.5 for n in (256, 4096))
        found.append(float(many / few))
    name, kind = ("normalised", "method") if normalise else ("without its denominator", "natural")
    return Row(f"linear attention, {name}", kind, "size of answers at 4096 tokens over that at 256 (1 is best)", found)


def run(quick: bool = True) -> Evidence:
    updates = 25 if quick else 200
    before, after = _attention.digits(TEXT), _attention.digits(TEXT, updates)
    half = _attention.digits(HALF, 0, "reference")
    large = {side: _attention.many(side, [TEXT], 2 if quick else 5) for side in (16, 32, 64)}
    share = large[64][TEXT].mean / large[64][""].mean
    others = _attention.fewer(share, f"{TEXT} at 64 x 64 tokens")
    slope = {t: Row(f"{t or 'full'}, 32 to 64 tokens of side", "method" if t else "reference", "exponent of seconds in N (lower)",
                    [math.log(large[64][t].mean / large[32][t].mean, 4)]) for t in ("", TEXT)}  # fmt: skip
    size, grown = sizes(True), sizes(False)
    peak = {t: float(r.cost.split()[1]) for t, r in large[64].items()}
    cheap = slope[TEXT].mean < 1.3 and peak[TEXT] < 1.1 * peak[""] and share < 0.5 and abs(size.mean - 1) < 0.1
    holds = cheap and after.mean < 0.5 * before.mean and all(after.mean < r.mean for r in others)
    rows = [after, *others, before, half, *slope.values(), size, grown, *(r for rows in large.values() for r in rows.values())]
    return Evidence(CLAIM, rows, verdict(holds, cheap), _ground.model("dit")[1])
