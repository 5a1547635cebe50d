"""Evidence for the curl of a denoiser: two rotations of the same size, one of which is a gauge; and the shipped model."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein import model
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.conservativity import Conservativity, gauge_residual
from ornstein.processes.edm import EDM
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

from ._stimuli import digits

CLAIM = (
    "The curl is under 1e-10 for exact denoisers and over 0.3 for two rotations added to one; it does not tell which of "
    "them does harm: the one along the score has a gauge residual under 1e-10 and keeps the samples' covariance to 0.1, "
    "the other one has more than 0.1 and moves it by over 0.25."
)
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
C, SIGMAS = 2.0, (0.2, 0.5, 1.0, 2.0)


def gaussian(seed: int) -> Mixture:
    """N(0, diag(1, v)), v from 0.16 to 0.36."""
    return Mixture(torch.zeros(1, 2), torch.tensor([[1.0, 0.4 + 0.05 * seed]]), EDM(t_max=20.0))


def turned(exact: Mixture, along_score: bool) -> Denoiser:
    """score + r. Along the score: r = C A score, whose p r has no divergence; else r = -C A x / (1 + sigma^2)."""
    def score(x: Tensor, told: Tensor, cond: object = None) -> Tensor:
        sigma = (-told / 2).exp()
        true = exact(x, sigma).score
        return true + C * (true if along_score else -x / (1 + sigma.view(-1, 1) ** 2)) @ TURN

    return Denoiser(score, exact.process, "score", time="logsnr")


def measure(exact: Mixture, field: object, seed: int) -> tuple[float, float, float]:
    """(curl, RMS of the gauge residual, error of the covariance of 2000 samples)."""
    x = exact.sample(64, seed)
    curl = Conservativity(sigmas=SIGMAS, rounds=20)(field, x).value
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    gauge = [gauge_residual(field, exact, x + sigma * noise, sigma).square().mean() for sigma in SIGMAS]
    drawn = sample(field, (2000, 2), Heun(), 100, seed=seed, rule="karras", dtype=torch.float64)
    off = torch.cov(drawn.T) - torch.diag(exact.stds[0] ** 2)
    return curl, (sum(gauge) / len(gauge)).sqrt().item(), off.norm().item()


def run(quick: bool = True) -> Evidence:
    """Five Gaussians; the shipped digits model at 12 real digits, by probes."""
    found = []
    for seed in range(5):
        exact = gaussian(seed)
        found.append([measure(exact, f, seed) for f in (exact, turned(exact, True), turned(exact, False))])
    kinds = {"exact": "reference", "rotation along the score": "method", "rotation of another kind": "natural"}
    metrics = ("curl (lower)", "gauge residual (lower)", "covariance error of 2000 samples (lower)")
    rows = [Row(name, kind, metric, [f[i][j] for f in found])
            for j, metric in enumerate(metrics) for i, (name, kind) in enumerate(kinds.items())]  # fmt: skip
    loaded, (images, labels) = model.load("digits"), digits()
    for sigma in (0.2, 2.0):
        meter = Conservativity(sigmas=(sigma,), probes=4 if quick else 32)
        each = meter.per_sample(loaded.denoiser, images[:12], loaded.encode(labels[:12].tolist()))
        rows.append(Row(f"digits model, sigma {sigma}", "reference", metrics[0], each.view(3, 4).mean(1).tolist()))
    right = all(e[0] < 1e-10 and min(g[0], o[0]) > 0.3 for e, g, o in found)
    gauge = all(g[1] < 1e-10 and o[1] > 0.1 for _, g, o in found)
    samples = all(g[2] < 0.1 and o[2] > 0.25 for _, g, o in found)
    return Evidence(CLAIM, rows, verdict(right and gauge and samples, right and gauge))
