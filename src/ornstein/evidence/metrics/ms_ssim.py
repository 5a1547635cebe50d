"""Evidence for MS-SSIM: does it follow legibility more closely than SSIM of one scale?"""

from __future__ import annotations

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.ms_ssim import MSSSIM
from ornstein.metrics.psnr import mean_squared
from ornstein.metrics.ssim import SSIM

from ._stimuli import LEVELS, damage, rising, some, track, track_equal_mse

CLAIM = ("Among damages of equal MSE, MS-SSIM tells the legible digits from the lost ones (Spearman with a classifier's "
         "lost accuracy above 0), and over 24 damages of any MSE it follows legibility more closely than SSIM of the "
         "same window.")  # fmt: skip


def run(quick: bool = True) -> Evidence:
    """Three seeds of 60 digits at 32x32, windows of 5 pixels: three scales."""
    many, one, wide = MSSSIM(window=5), SSIM(window=5, sigma=1.5 * 5 / 11), SSIM()
    scores = {"MS-SSIM": lambda w, x: 1 - many.each(w, x).mean().item(),
              "SSIM": lambda w, x: 1 - one.each(w, x)[0].mean().item(),
              "SSIM 11": lambda w, x: 1 - wide.each(w, x)[0].mean().item(),
              "MSE": lambda w, x: mean_squared(w, x).mean().item()}  # fmt: skip
    seeds = range(3 if quick else 10)
    all_ = [track(scores, seed, 60) for seed in seeds]
    equal = [track_equal_mse({k: scores[k] for k in ("MS-SSIM", "SSIM", "SSIM 11")}, seed, 60) for seed in seeds]
    order = []
    for seed in seeds:
        clean = some(seed, 40)[0]
        order.append(min(rising([-many(damage(clean, k, level, seed), clean).value for level in LEVELS[k]])
                         for k in ("noise", "blur")))  # fmt: skip
    any_, same = "Spearman with lost accuracy, 24 damages (higher)", "Spearman with lost accuracy at equal MSE (higher)"
    clean = some(0, 40)[0]
    rows = [Row("MS-SSIM", "method", any_, [f["MS-SSIM"] for f in all_]),
            Row("SSIM, window of 5", "natural", any_, [f["SSIM"] for f in all_]),
            Row("SSIM, window of 11", "reference", any_, [f["SSIM 11"] for f in all_]),
            Row("MSE", "equal-cost", any_, [f["MSE"] for f in all_]),
            Row("MS-SSIM", "method", same, [f["MS-SSIM"] for f in equal]),
            Row("SSIM, window of 5", "natural", same, [f["SSIM"] for f in equal]),
            Row("SSIM, window of 11", "reference", same, [f["SSIM 11"] for f in equal]),
            Row("MS-SSIM", "method", "strict order under noise and blur (1 = yes)", order),
            Row("MS-SSIM of an image with itself", "floor", "MS-SSIM (1)", [many(clean, clean).value])]  # fmt: skip
    beats, tells = rows[0].mean > rows[1].mean, rows[4].mean > 0
    return Evidence(CLAIM, rows, verdict(beats and tells, beats or tells))
