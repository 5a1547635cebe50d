"""Evidence for the Fokker-Planck residual: 0 for exact denoisers under every process, and telling apart two denoisers that
are wrong by as much: one that is exact for other data, and one whose noise levels do not fit together."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.fokker_planck import FokkerPlanck
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddpm import DDPM
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

CLAIM = (
    "The residual of exact denoisers of mixtures is under 1e-10 under four processes. Of two that are wrong by as much, it "
    "is under 1e-10 for the one that is exact for other data, whose ODE and SDE samples agree in scale to 5%, and above "
    "0.05 for the one whose errors do not fit together, where they differ by more than 10%; the error of denoising "
    "does not tell the two apart (within 20%)."
)
PROCESSES = {"Flow": Flow(), "VP cosine": VP(), "VP linear": VP("linear"), "EDM": EDM()}


def wide(mixture: Mixture, factor: float) -> Mixture:
    """Exact for the data scaled by `factor`."""
    return Mixture(factor * mixture.means, factor * mixture.stds, mixture.process, mixture.weights)


def misfit(mixture: Mixture, gain: float) -> Denoiser:
    """The exact noise times 1 + gain exp(-l^2 / 2) at l = log sigma: the score of no diffusion."""
    def x0(x: Tensor, told: Tensor, cond: object = None) -> Tensor:
        said, l = mixture(x, mixture.process.time(told)), (told / -2).clamp(max=20.0)
        return said.x0 - gain * (l - l**2 / 2).exp().view(-1, 1) * said.noise

    return Denoiser(x0, mixture.process, "x0", time="logsnr")


def wrong(denoiser: object, mixture: Mixture, x: Tensor) -> float:
    """Root mean square of the noise's error against the exact one, over the meter's levels."""
    total = 0.0
    for sigma in FokkerPlanck().sigmas:
        t = mixture.process.time(-2 * torch.tensor(sigma, dtype=torch.float64).log())
        generator = torch.Generator().manual_seed(9)
        noised = mixture.process.corrupt(x, torch.randn(x.shape, generator=generator, dtype=x.dtype), t)
        total += (denoiser(noised, t).noise - mixture(noised, t).noise).square().mean().item()
    return (total / len(FokkerPlanck().sigmas)) ** 0.5


def gap(denoiser: object, seed: int, n: int = 1000) -> float:
    """|log of the ratio of the deviations of ODE and SDE samples|."""
    ode, sde = (sample(denoiser, (n, 2), s, k, seed=seed + i, dtype=torch.float64).std(0).mean()
                for i, (s, k) in enumerate(((Heun(), 40), (DDPM(), 120))))  # fmt: skip
    return (ode / sde).log().abs().item()


def run(quick: bool = True) -> Evidence:
    """Five mixtures in two dimensions, 64 data each, float64."""
    meter, seeds, found = FokkerPlanck(rounds=20), range(5 if quick else 20), []
    exact = {name: [] for name in PROCESSES}
    for seed in seeds:
        for name, process in PROCESSES.items():
            mixture = Mixture.random(process, 2, 4, 0.4, seed)
            exact[name].append(meter(mixture, mixture.sample(64, seed)).value)
        mixture = Mixture.random(Flow(), 2, 4, 0.4, seed)
        x = mixture.sample(64, seed)
        other = wide(mixture, 0.8)
        error = wrong(other, mixture, x)
        pair = (other, misfit(mixture, error / wrong(misfit(mixture, 1.0), mixture, x)))
        found.append([(meter(d, x).value, wrong(d, mixture, x), gap(d, 10 * seed)) for d in pair])
    metrics = ("Fokker-Planck residual (lower)", "RMS error of the noise", "log ratio of ODE and SDE deviations (lower)")
    rows = [Row(f"exact, {name}", "reference", metrics[0], values) for name, values in exact.items()]
    for j, metric in enumerate(metrics):
        kind = "natural" if j == 1 else "method" if j == 0 else "reference"
        rows += [Row(name, kind, metric, [f[i][j] for f in found])
                 for i, name in enumerate(("exact for other data", "misfit"))]  # fmt: skip
    zero = max(max(v) for v in exact.values()) < 1e-10 and all(f[0][0] < 1e-10 for f in found)
    tells = all(f[1][0] > 0.05 and f[1][2] > 0.1 and f[0][2] < 0.05 and abs(f[0][1] / f[1][1] - 1) < 0.2 for f in found)
    return Evidence(CLAIM, rows, verdict(zero and tells, zero and all(f[1][0] > 0.05 for f in found)))
