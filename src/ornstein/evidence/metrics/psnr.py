"""Evidence for PSNR: order under growing noise and blur, and whether its interval covers."""

from __future__ import annotations

import torch

from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.psnr import PSNR, mean_squared

from ._stimuli import LEVELS, damage, digits, rising

CLAIM = ("PSNR falls strictly as noise or blur grows, its 95% interval from 40 pairs covers the whole set's figure in "
         "at least 90% of draws, and unlike MSE it is the same in [-1, 1] and [0, 1].")


def run(quick: bool = True) -> Evidence:
    """Five seeds of 40 digits at 32x32 for the order, 100 draws a seed for the interval."""
    x, _ = digits(32)
    order, covered, plain, psnr_ratio, mse_ratio = [], [], [], [], []
    for seed in range(5 if quick else 20):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        clean, metric = x[rows[:40]], PSNR(seed=seed)
        falls = [rising([-metric(damage(clean, k, level, seed), clean).value for level in LEVELS[k]])
                 for k in ("noise", "blur")]  # fmt: skip
        order.append(min(falls))
        noisy = damage(clean, "noise", 0.3, seed)
        unit = PSNR(low=0.0, high=1.0)(noisy / 2 + 0.5, clean / 2 + 0.5).value
        psnr_ratio.append(unit / metric(noisy, clean).value)
        mse_ratio.append((mean_squared(noisy / 2, clean / 2).mean() / mean_squared(noisy, clean).mean()).item())
        hits = coverage(damage(x, "blur", 2.0), x, seed)
        covered.append(hits[0])
        plain.append(hits[1])
    holds = min(order) == 1 and sum(covered) / len(covered) >= 0.9 and max(abs(r - 1) for r in psnr_ratio) < 1e-6
    share = "share of intervals that cover (0.95 is right)"
    rows = [Row("PSNR", "method", "strict order under noise and blur (1 = yes)", order),
            Row("PSNR, bootstrap interval", "method", share, covered),
            Row("PSNR, one deviation of the pairs", "equal-cost", share, plain),
            Row("PSNR", "method", "figure in [0, 1] over figure in [-1, 1] (1 = same)", psnr_ratio),
            Row("MSE", "natural", "figure in [0, 1] over figure in [-1, 1] (1 = same)", mse_ratio)]  # fmt: skip
    note = "The equal-cost row is the spread of the pairs, as tables often print it: no interval of the mean."
    return Evidence(CLAIM, rows, verdict(holds, min(order) == 1), note)


def coverage(worse: torch.Tensor, clean: torch.Tensor, seed: int, draws: int = 100) -> tuple[float, float]:
    """Share of draws of 40 pairs whose interval holds the set's PSNR: the bootstrap's, and mean -+ one deviation."""
    each = 10 * torch.log10(4 / mean_squared(worse, clean))
    truth, generator, hits, loose = each.mean().item(), torch.Generator().manual_seed(100 + seed), 0, 0
    for i in range(draws):
        rows = torch.randint(len(clean), (40,), generator=generator)
        found = PSNR(seed=i)(worse[rows], clean[rows])
        hits += found.low <= truth <= found.high
        loose += abs(each[rows].mean().item() - truth) <= each[rows].std().item()
    return hits / draws, loose / draws
