"""Evidence for LCM's sampling: right with a network that jumps to the data, wrong with one that tells the mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process
from ornstein.evidence import Evidence, Row, verdict
from ornstein.testbeds import Mixture

from ._ground import below

CLAIM = (
    "On a ring of eight blobs, with the exact consistency function, one, two and four LCM steps end in the data's law (as "
    "near as data to data); with the plain denoiser four are farther from it than four DDIM steps; and with a jump that is "
    "inexact four steps are nearer than one."
)
METRIC = "sliced Wasserstein distance to the data (lower)"
SEEDS, COUNT = 5, 400


@dataclass(frozen=True)
class Jump:
    """x0 at the end of the trajectory: the ODE solved in `steps` Runge-Kutta steps of four evaluations."""

    mixture: Mixture
    steps: int

    @property
    def process(self) -> Process:
        return self.mixture.process

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None, clock: object = None) -> Prediction:
        return Prediction(x, self.process.at(t, x), "x0", self.mixture.exact(x, t, steps=self.steps))


def distance(ends: Tensor, data: Tensor) -> float:
    """Over 32 directions of the plane."""
    angle = torch.arange(32, dtype=torch.float64) * (torch.pi / 32)
    way = torch.stack([angle.cos(), angle.sin()])
    return ((ends.double() @ way).sort(0)[0] - (data @ way).sort(0)[0]).abs().mean().item()


def ends(kind: str, name: str, denoiser: object, solver: str, calls: int) -> Row:
    """SEEDS runs on the flow, each against data of its own."""
    like = torch.empty(SEEDS * COUNT, 2, dtype=torch.float64)
    start = denoiser.process.prior(NoiseSource.of(0, range(len(like))).draw(-1, like))
    found = sample(denoiser, start, catalog.build("solvers", solver), calls)
    values = [distance(part, data(k)) for k, part in enumerate(found.chunk(SEEDS))]
    return Row(f"{solver}, {name}", kind, METRIC, values, f"{calls} calls")


def data(seed: int) -> Tensor:
    return Mixture.ring(catalog.build("processes", "flow")).sample(COUNT, seed=100 + seed)


def run(quick: bool = True) -> Evidence:
    """Five seeds of 400 samples, against 400 data each."""
    plain = Mixture.ring(catalog.build("processes", "flow"))
    exact, coarse = Jump(plain, 40), Jump(plain, 2)
    fresh = [distance(plain.sample(COUNT, seed=200 + k), data(k)) for k in range(SEEDS)]
    floor = Row("data against data", "floor", METRIC, fresh)
    right = [ends("method", "exact jump", exact, "lcm", n) for n in (1, 2, 4)]
    mean, ddim = (ends(k, "plain denoiser", plain, s, 4) for k, s in (("method", "lcm"), ("natural", "ddim")))
    one, four = (ends("method", "inexact jump", coarse, "lcm", n) for n in (1, 4))
    equal = ends("equal-cost", "plain denoiser", plain, "dpmpp2m", 4)
    good = not any(below([floor] * 3, right))
    worse, mends = all(below([ddim], [mean])), all(below([four], [one]))
    table = [*right, mean, ddim, equal, one, four, floor]
    return Evidence(CLAIM, table, verdict(good and worse and mends, good and worse))
