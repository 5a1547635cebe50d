"""The regulariser: 0 at the oracle, the meter's residual, gradients that are right, probes without bias."""

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.losses.pretraining.denoising import Denoising
from ornstein.losses.pretraining.fokker_planck import FokkerPlanckLoss, _residual
from ornstein.metrics.fokker_planck import residual
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture


def batch(n=6, dims=3):
    g = torch.Generator().manual_seed(0)
    return {"x0": torch.randn(n, dims, generator=g, dtype=torch.float64), "u": (torch.arange(n, dtype=torch.float64) + 0.5) / n,
            "noise": torch.randn(n, dims, generator=g, dtype=torch.float64)}  # fmt: skip


def network(dims=3):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(dims + 1, 8), torch.nn.SiLU(), torch.nn.Linear(8, dims)).double()
    return net, Denoiser(lambda x, t, cond: net(torch.cat([x, t[:, None]], 1)), Flow())


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_the_oracle_pays_nothing(process):
    mixture = Mixture.random(process, 3, 4)
    found = FokkerPlanckLoss(base=Denoising("x0", time=lambda u, p: p.time(6 - 12 * u)))(mixture, batch())
    assert found["fokker-planck"] < 1e-20 and found["loss"] == found["denoising"] + found["fokker-planck"]


def test_it_is_the_meter_s_residual_whose_gradient_is_right():
    net, denoiser = network()
    y, level = torch.randn(4, 3, dtype=torch.float64), torch.full((4,), 0.7, dtype=torch.float64).log()
    assert torch.allclose(_residual(denoiser, y, level, None), residual(denoiser, y, 0.7), atol=1e-10)

    def total():
        return FokkerPlanckLoss(2.0)(denoiser, batch())["loss"]

    total().backward()
    for weight in net.parameters():
        with torch.no_grad():
            place = (0,) * weight.ndim
            weight[place] += 1e-5
            up = total().item()
            weight[place] -= 2e-5
            down = total().item()
            weight[place] += 1e-5
        assert weight.grad[place].item() == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-7)


def test_probes_have_no_bias():
    _, denoiser = network()
    exact = FokkerPlanckLoss()(denoiser, batch())["fokker-planck"].item()
    g = torch.Generator().manual_seed(0)
    drawn = [FokkerPlanckLoss(exact=0)(denoiser, batch(), g)["fokker-planck"].item() for _ in range(60)]
    mean, deviation = sum(drawn) / 60, torch.tensor(drawn).std().item() / 60**0.5
    assert abs(mean - exact) < 4 * deviation + 1e-9 and deviation > 0


def test_weight_0_is_the_base_and_the_share_cuts_rows():
    _, denoiser = network()
    none = FokkerPlanckLoss(0.0)(denoiser, batch())
    assert set(none) == {"loss", "denoising"} and none["loss"] == Denoising()(denoiser, batch())["loss"]
    half = {k: v[:3] for k, v in batch().items()}
    assert torch.allclose(FokkerPlanckLoss(share=0.5)(denoiser, batch())["fokker-planck"],
                          FokkerPlanckLoss()(denoiser, half)["fokker-planck"])  # fmt: skip
    a, b = (FokkerPlanckLoss(w)(denoiser, batch())["fokker-planck"] for w in (1.0, 3.0))
    assert torch.allclose(3 * a, b)


def test_errors():
    for settings in ({"weight": -1.0}, {"probes": 1}, {"share": 0.0}, {"sigma_min": 20.0}):
        with pytest.raises(OrnsteinError, match="Give a weight of 0 or more"):
            FokkerPlanckLoss(**settings)
