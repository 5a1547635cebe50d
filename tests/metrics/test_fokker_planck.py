"""The residual is 0 for exact denoisers, and what the formula says for one that is wrong in a known way."""

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.metrics.fokker_planck import FokkerPlanck, residual
from ornstein.metrics.layers.jacobian import probes
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import ClosedForm, Mixture, MoLRG


@pytest.mark.parametrize("process", [Flow(), VP(), VP("linear"), EDM()], ids=lambda p: type(p).__name__)
def test_exact_denoisers_have_none(process):
    beds = (Mixture.random(process, 3, 4), MoLRG.random(process, 6, 2, 2, ridge=0.1),
            ClosedForm(torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), process))
    for exact in beds:
        x = exact.sample(5) if hasattr(exact, "sample") else exact.data[:5]
        assert FokkerPlanck(rounds=10)(exact, x).value < 1e-10


def scaled(gain, v=0.49):
    exact = Mixture(torch.zeros(1, 2), torch.tensor(v**0.5), EDM())
    return Denoiser(lambda x, told, cond: (1 + gain) * exact(x, (-told / 2).exp()).noise, EDM(), "noise", time="logsnr")


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_a_gaussian_s_noise_times_1_plus_gain(sigma):
    y = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    want = -0.2 * 1.2 * 2 * sigma**3 * y / (0.49 + sigma**2) ** 2
    assert torch.allclose(residual(scaled(0.2), y, sigma), want, atol=1e-12)


def test_the_divergence_counts_and_probes_give_it():
    mixture = Mixture.random(Flow(), 3, 4)
    y = mixture.sample(3, 1)
    vectors = probes(y, 3000, 0, range(3), 0)
    by_probes = residual(mixture, y, 0.7, None, vectors)
    assert by_probes.abs().max() < 0.08
    assert residual(mixture, y, 0.7, None, vectors[:1]).abs().max() > 0.1


def test_pairs_of_probes_have_no_bias():
    mixture = Mixture.random(Flow(), 3, 4)
    x = mixture.sample(60, 1)
    squares = FokkerPlanck((0.7,), exact=0, probes=8).per_sample(mixture, x)
    single = torch.stack([residual(mixture, x, 0.7, None, v[None]) for v in probes(x, 4, 0, range(60), 0)])
    assert squares.mean().abs() < 0.1 * single.square().mean() and (squares < 0).any()


def test_errors():
    with pytest.raises(OrnsteinError, match="Give at least 2"):
        FokkerPlanck(probes=1)
    with pytest.raises(OrnsteinError, match="ratios above 0"):
        FokkerPlanck(sigmas=(0.0,))(scaled(0.1), torch.zeros(2, 2))
