"""Evidence for the latent error: no scale, the order of a solver whose error is known, an interval that covers."""

from __future__ import annotations

import torch

from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.latent import LatentError, relative
from ornstein.metrics.psnr import mean_squared
from ornstein.processes.flow import Flow
from ornstein.solvers.euler import Euler
from ornstein.testbeds import Mixture

CLAIM = (
    "The latent error is the same in any scaling of the latents, where the MSE changes by the square of the scale; on a "
    "mixture whose trajectories are known Euler's halves as its steps double (by 1.8 to 2.2 from 40 to 80), and its 95% "
    "intervals from 40 samples cover the figure of 800 in at least 90% of draws."
)


def run(quick: bool = True) -> Evidence:
    """Three mixtures in 8 dimensions for the order, three seeds of 100 draws for the interval."""
    ratios, scaled, plain, covered, loose, middle, errors, noise = ([] for _ in range(8))
    for seed in range(3 if quick else 8):
        mixture = Mixture.random(Flow(), 8, 5, 0.5, seed)
        start = torch.randn(800, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        truth = mixture.exact(start, steps=200)
        coarse, fine = (sample(mixture, start, Euler(), steps) for steps in (40, 80))
        found, less = (LatentError()(x, truth) for x in (coarse, fine))
        ratios.append(found.value / less.value)
        errors.append(found.value)
        noise.append(LatentError()(coarse, truth, truth.flip(0)).floor)
        scaled.append(LatentError()(0.18215 * coarse, 0.18215 * truth).value / found.value)
        plain.append((mean_squared(0.18215 * coarse, 0.18215 * truth).mean() / mean_squared(coarse, truth).mean()).item())
        hits = coverage(relative(coarse, truth), coarse, truth, seed)
        covered.append(hits[0])
        loose.append(hits[1])
        middle.append(hits[2])
    share, scale = "share of intervals that cover (0.95 is right)", "figure at scale 0.18215 over that at 1 (1 = same)"
    rows = [Row("latent error", "method", scale, scaled), Row("MSE", "natural", scale, plain),
            Row("latent error", "method", "Euler's at 40 steps over that at 80 (2 is right)", ratios),
            Row("latent error, bootstrap interval", "method", share, covered),
            Row("latent error, one deviation of the pairs", "equal-cost", share, loose),
            Row("its median, exact interval", "method", share, middle),
            Row("Euler, 40 steps", "reference", "latent error (lower)", errors),
            Row("other seeds", "floor", "latent error (lower)", noise)]  # fmt: skip
    same = max(abs(v - 1) for v in scaled) < 1e-9 and max(abs(v / 0.18215**2 - 1) for v in plain) < 1e-9
    order, sure = all(1.8 < v < 2.2 for v in ratios), sum(covered) / len(covered) >= 0.9
    return Evidence(CLAIM, rows, verdict(same and order and sure, same and (order or sure)))


def coverage(each: torch.Tensor, x: torch.Tensor, truth: torch.Tensor, seed: int) -> tuple[float, float, float]:
    """Share of 100 draws of 40 whose interval holds the whole's figure: the bootstrap's, mean -+ one deviation, the
    median's exact one."""
    generator, hits, loose, median = torch.Generator().manual_seed(100 + seed), 0, 0, 0
    for i in range(100):
        rows = torch.randint(len(each), (40,), generator=generator)
        found = LatentError(rounds=400, seed=i)(x[rows], truth[rows])
        hits += found.low <= each.mean().item() <= found.high
        loose += (each[rows].mean() - each.mean()).abs().item() <= each[rows].std().item()
        found = LatentError(quantile=0.5)(x[rows], truth[rows])
        median += found.low <= each.quantile(0.5).item() <= found.high
    return hits / 100, loose / 100, median / 100
