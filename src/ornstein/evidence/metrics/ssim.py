"""Evidence for SSIM: does it follow the loss of legibility over unlike kinds of damage better than MSE does?"""

from __future__ import annotations

from statistics import fmean

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.psnr import mean_squared
from ornstein.metrics.ssim import SSIM

from ._stimuli import LEVELS, damage, rising, some, track, track_equal_mse

CLAIM = ("Among damages of equal MSE, SSIM tells the legible digits from the lost ones (Spearman with a classifier's "
         "lost accuracy above 0), and over 24 damages of any MSE it follows legibility more closely than MSE.")


def run(quick: bool = True) -> Evidence:
    """80 digits at 32x32 a seed; shift, noise, blur, contrast, brightness, erased middle, at four levels each."""
    seeds = range(5 if quick else 20)
    metric, x = SSIM(rounds=20), some(0, 100)[0]
    scores = {"SSIM": lambda g, r: -metric(g, r).value, "MSE": lambda g, r: mean_squared(g, r).mean().item(),
              "mean absolute error": lambda g, r: (g - r).abs().mean().item()}  # fmt: skip
    order = [min(rising([-metric(damage(x, k, level, s), x).value for level in LEVELS[k]]) for k in ("noise", "blur"))
             for s in range(3)]  # fmt: skip
    wide, equal = [track(scores, s) for s in seeds], [track_equal_mse(scores, s) for s in seeds]
    kinds, rows = {"SSIM": "method", "MSE": "natural", "mean absolute error": "equal-cost"}, []
    for name, kind in kinds.items():
        rows.append(Row(name, kind, "Spearman with lost accuracy, 24 damages (higher)", [w[name] for w in wide]))
    for name in ("SSIM", "mean absolute error"):
        label = "Spearman with lost accuracy at equal MSE (higher)"
        rows.append(Row(name, kinds[name], label, [e[name] for e in equal]))
    rows += [Row("SSIM", "method", "strict order under noise and blur (1 = yes)", order),
             Row("SSIM of an image with itself", "floor", "SSIM (1)", [metric(x, x).value])]  # fmt: skip
    tells = min(e["SSIM"] for e in equal) > 0 and min(order) == 1
    follows = fmean(w["SSIM"] for w in wide) > fmean(w["MSE"] for w in wide)
    return Evidence(CLAIM, rows, verdict(tells and follows, tells or follows),
                    "At equal MSE the MSE itself tells nothing: its correlation there is chance.")  # fmt: skip
