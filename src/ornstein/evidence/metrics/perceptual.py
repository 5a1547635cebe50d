"""Evidence for the perceptual distance: does it follow the loss of legibility better than MSE and SSIM do?"""

from __future__ import annotations

from statistics import fmean

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.layers.features import Extractor
from ornstein.metrics.perceptual import Perceptual
from ornstein.metrics.psnr import mean_squared
from ornstein.metrics.ssim import SSIM

from ._stimuli import LEVELS, damage, rising, some, track, track_equal_mse

CLAIM = ("Among damages of equal MSE, the distance in random features tells the legible digits from the lost ones "
         "(Spearman with a classifier's lost accuracy above 0), and over 24 damages it beats MSE and SSIM.")


def run(quick: bool = True, extractor: str | Extractor = "random-conv") -> Evidence:
    """80 digits at 32x32 a seed; the judge is a classifier trained on real digits, no part of the metric."""
    seeds = range(3 if quick else 20)
    metric, ssim, x = Perceptual(extractor, rounds=20), SSIM(rounds=20), some(0, 60)[0]
    scores = {"perceptual": lambda g, r: metric(g, r).value, "MSE": lambda g, r: mean_squared(g, r).mean().item(),
              "SSIM": lambda g, r: -ssim(g, r).value}  # fmt: skip
    order = [min(rising([metric(damage(x, k, level, s), x).value for level in LEVELS[k]]) for k in ("noise", "blur"))
             for s in range(3)]  # fmt: skip
    wide, equal = [track(scores, s) for s in seeds], [track_equal_mse(scores, s) for s in seeds]
    kinds, rows = {"perceptual": "method", "MSE": "natural", "SSIM": "equal-cost"}, []
    for name, kind in kinds.items():
        rows.append(Row(name, kind, "Spearman with lost accuracy, 24 damages (higher)", [w[name] for w in wide]))
    for name in ("perceptual", "SSIM"):
        label = "Spearman with lost accuracy at equal MSE (higher)"
        rows.append(Row(name, kinds[name], label, [e[name] for e in equal]))
    rows += [Row("perceptual", "method", "strict order under noise and blur (1 = yes)", order),
             Row("perceptual of an image with itself", "floor", "distance (0)", [metric(x, x).value])]  # fmt: skip
    tells = min(e["perceptual"] for e in equal) > 0 and min(order) == 1
    follows = all(fmean(w["perceptual"] for w in wide) > fmean(w[n] for w in wide) for n in ("MSE", "SSIM"))
    return Evidence(CLAIM, rows, verdict(tells and follows, tells or follows),
                    "At equal MSE the MSE itself tells nothing: its correlation there is chance.")  # fmt: skip
