"""The two-sided interpolant's loss: its minimum is the exact velocity and eta, with antithetic noise or without."""

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output
from ornstein.evidence._bridges import Bridge
from ornstein.losses.pretraining.denoising import Denoising
from ornstein.losses.pretraining.interpolant import InterpolantLoss
from ornstein.processes.flow import Flow
from ornstein.processes.interpolant import Interpolant
from ornstein.testbeds import Mixture

PROCESS = Interpolant("trigonometric", "root")
DATA, END = (Mixture(torch.tensor([[m]]), torch.tensor(d), PROCESS) for m, d in ((0.75, 0.5), (-1.0, 0.9)))


class Shifted(torch.nn.Module):
    """The exact answers, each times a factor and plus a shift, which are right at 1 and 0."""

    def __init__(self):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64))
        self.bridge = Bridge(DATA, END, PROCESS)

    def forward(self, x, t, cond=None):
        said = self.bridge(x, t)
        b, eta = said.value, said.output.extra["noise"]
        return Output(self.by[0] * b + self.by[1], extra={"noise": self.by[2] * eta + self.by[3]})


def batch(n, t=None):
    made = {"x0": DATA.sample(n, 1), "y": END.sample(n, 2)}
    return made | ({} if t is None else {"t": torch.full((n,), t, dtype=torch.float64)})


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("t", [0.15, 0.5, 0.8])
def test_the_gradient_vanishes_at_the_exact_answers(antithetic, t):
    network = Shifted()
    loss = InterpolantLoss(antithetic)(Denoiser(network, PROCESS, time="t"), batch(60000, t), torch.Generator().manual_seed(0))
    loss["loss"].backward()
    assert network.by.grad.abs().max() < 0.06
    assert loss["velocity"] > 0 and loss["noise"] > 0
    assert torch.allclose(loss["loss"], loss["velocity"] + loss["noise"])


def test_antithetic_noise_calms_the_gradient_at_the_ends():
    spread = {}
    for antithetic in (True, False):
        grads = []
        for seed in range(20):
            network = Shifted()
            some = {k: v[seed * 50 : seed * 50 + 50] for k, v in batch(1000, 1e-3).items()}
            loss = InterpolantLoss(antithetic)(Denoiser(network, PROCESS, time="t"), some, torch.Generator().manual_seed(seed))
            loss["velocity"].backward()
            grads.append(network.by.grad[1])
        spread[antithetic] = torch.stack(grads).var()
    assert 20 * spread[True] < spread[False]


def test_one_sided_it_is_the_regression_of_the_velocity():
    layer, rows = torch.nn.Linear(3, 3), torch.randn(8, 3)
    denoiser = Denoiser(lambda x, t, cond: layer(x), Flow())
    some = {"x0": rows, "noise": torch.randn(8, 3), "u": (torch.arange(8) + 0.5) / 8}
    assert torch.allclose(InterpolantLoss(False)(denoiser, some)["loss"], Denoising()(denoiser, some)["loss"])


def test_refusals():
    two, one = Denoiser(lambda x, t, cond: x, PROCESS, time="t"), Denoiser(lambda x, t, cond: x, Flow())
    with pytest.raises(OrnsteinError, match="has no end point"):
        InterpolantLoss()(two, {"x0": torch.zeros(2, 1)})
    with pytest.raises(OrnsteinError, match="has an end point"):
        InterpolantLoss()(one, {"x0": torch.zeros(2, 1), "y": torch.zeros(2, 1)})
    with pytest.raises(OrnsteinError, match="says nothing about the noise"):
        InterpolantLoss()(two, {"x0": torch.zeros(2, 1), "y": torch.zeros(2, 1)})
    with pytest.raises(OrnsteinError, match="negative"):
        InterpolantLoss(noise_weight=-1.0)
