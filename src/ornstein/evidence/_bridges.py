"""Common ground of the evidence on interpolants: two mixtures, the exact answers between them, and a small network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import Denoiser
from ornstein.core.prediction import Output, Prediction
from ornstein.core.process import Process
from ornstein.evidence._adam import Adam
from ornstein.testbeds import Mixture

__all__ = ["Bridge", "Pair", "checker", "sliced", "trained"]


@dataclass(frozen=True, eq=False)
class Bridge:
    """The exact velocity and eta of a two-sided interpolant between independent x_0 and y of two mixtures."""

    data: Mixture
    end: Mixture
    process: Process

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Any = None) -> Prediction:
        """x [B, D]. Given the two components, everything is Gaussian."""
        L = self.process.at(t, x)
        inner = torch.as_tensor(t, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)  # gamma has no slope at the ends
        a, g, da, dg, b, db = (v.reshape(-1, 1, 1, 1) for v in self.process.coefficients(inner))
        m, n = self.data.means[:, None], self.end.means[None]  # [K, 1, D], [1, J, D]
        v, w = self.data.stds[:, None] ** 2, self.end.stds[None] ** 2
        gap, total = x.double()[:, None, None] - a * m - b * n, a**2 * v + b**2 * w + g**2
        weight = (self.data.weights.log()[:, None] + self.end.weights.log()) - 0.5 * (gap**2 / total + total.log()).sum(3)
        share = weight.flatten(1).softmax(1).reshape(weight.shape)[..., None]
        slope = da * m + db * n + (a * da * v + b * db * w + g * dg) / total * gap
        velocity, eta = ((share * part).sum((1, 2)).to(x.dtype) for part in (slope, g / total * gap))
        return Prediction(x, L, "velocity", velocity, Output(velocity, extra={"noise": eta}))


class Pair(nn.Module):
    """x [B, D], t [B] -> velocity, and eta as the extra 'noise': one perceptron with two heads."""

    def __init__(self, dims: int = 2, width: int = 64) -> None:
        super().__init__()
        self.dims = dims
        self.layers = nn.Sequential(nn.Linear(dims + 5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * dims))  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Output:
        angle = torch.pi * t[:, None]
        told = torch.cat([x, t[:, None], angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], 1)
        velocity, eta = self.layers(told).split(self.dims, 1)
        return Output(velocity, extra={"noise": eta})


def checker(process: Process) -> Mixture:
    """Eight small blobs on the black squares of a board of four by four, D = 2."""
    place = torch.tensor([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0], dtype=torch.float64)
    return Mixture(place - 1.5, torch.tensor(0.2), process)


@lru_cache(maxsize=8)
def _quantiles(law: Mixture, count: int, ways: int = 64) -> tuple[Tensor, Tensor]:
    """Fixed directions [D, ways], and `count` quantiles of the law along each, from 16 draws a quantile."""
    way = torch.randn(law.means.shape[1], ways, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    way = way / way.norm(dim=0)
    return way, (law.sample(16 * count, seed=9) @ way).sort(0)[0].reshape(count, 16, ways).mean(1)


def sliced(x: Tensor, law: Mixture) -> float:
    """Sliced Wasserstein-1 distance of samples [N, D] to a law."""
    way, quantiles = _quantiles(law, len(x))
    return float(((x.double() @ way).sort(0)[0] - quantiles).abs().mean())


def trained(process: Process, data: Mixture, end: Mixture, loss: Any, seed: int, steps: int) -> Denoiser:
    """A `Pair` after some steps of Adam on batches of 256 fresh draws; no draw is seen twice."""
    torch.manual_seed(seed)
    denoiser, generator = Denoiser(Pair(), process, time="t"), torch.Generator().manual_seed(seed)
    optimiser = Adam(denoiser.backbone.parameters(), 2e-3)
    ends = (law.sample(256 * steps, seed=1000 + seed + k).float().split(256) for k, law in enumerate((data, end)))
    for k, (x0, y) in enumerate(zip(*ends)):
        optimiser.lr = 1e-3 * (1 + math.cos(math.pi * k / steps))
        optimiser.zero_grad()
        loss(denoiser, {"x0": x0, "y": y}, generator)["loss"].backward()
        optimiser.step()
    return denoiser
