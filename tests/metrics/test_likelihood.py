"""The likelihood by the probability flow against densities that are known."""

import math

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.likelihood import Likelihood
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture


def truth(mixture, x, cond=None):
    """log-density of x_0 + sigma(t_min) noise at x, for a flow whose prior is N(0, s^2) at t_max instead of the exact."""
    process = mixture.process
    low, high = process.at(process.t_min, x), process.at(process.t_max, x)
    top, dims = mixture.exact(low.a * x, process.t_min, process.t_max, cond), x.shape[1]
    normal = -0.5 * (top / high.s).square().sum(1) - dims * (0.5 * math.log(2 * math.pi) + high.s.log())
    off = normal - (mixture.log_density(top, process.t_max, cond) if high.a > 0 else normal)
    return mixture.log_density(low.a * x, process.t_min, cond) + dims * low.a.log() + off


@pytest.mark.parametrize("process", [Flow(), VP(), VP("linear"), EDM()], ids=lambda p: type(p).__name__)
def test_exact_densities(process):
    mixture = Mixture.random(process, 3, 3, 0.5)
    cond = {"label": torch.tensor([0, 1, 2, 3, 3, 3])}
    x = torch.cat([mixture.sample(5, 1), torch.full((1, 3), 2.5, dtype=torch.float64)])  # the last lies far out
    found = Likelihood(1e-5).per_sample(mixture, x, cond)
    assert (found - truth(mixture, x, cond)).abs().max() < 1e-3


def test_the_tolerance_bounds_the_error_and_float32_will_do():
    mixture = Mixture.random(Flow(), 3, 3, 0.5)
    x = mixture.sample(4, 1)
    true = truth(mixture, x)
    errors = [(Likelihood(t).per_sample(mixture, x) - true).abs().max().item() for t in (1e-2, 1e-4, 1e-6)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-4
    assert (Likelihood(1e-4).per_sample(mixture, x.float()) - true).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_random_traces_are_unbiased(kind):
    mixture = Mixture.random(Flow(), 3, 3, 0.5)
    x = mixture.sample(2, 1)
    way = Likelihood(1e-3, exact=0, probes=400, kind=kind)
    true = truth(mixture, x)
    off = way.per_sample(mixture, x) - true
    assert off.abs().max() < 0.3
    one = Likelihood(1e-3, exact=0, probes=1, kind=kind).per_sample(mixture, x) - true
    assert one.abs().max() > 0.3


def test_bits_of_a_wide_gaussian_and_of_grey_levels():
    one = Mixture(torch.zeros(1, 4), torch.tensor(1.0), Flow())
    x = one.sample(200, 0)
    entropy = 0.5 * math.log2(2 * math.pi * math.e)
    found = Likelihood(1e-3)(one, x)
    assert found.unit == "bits per dimension" and found.better == "lower" and abs(found.value - entropy) < 0.1
    grey = Likelihood(1e-3, bin=0.25)(one, (4 * x).round() / 4)
    assert abs(grey.value - (entropy + 2)) < 0.1  # a quarter has 2 bits more than 1


def test_errors_name_the_remedy():
    mixture = Mixture.random(Flow(), 2, 2)
    with pytest.raises(OrnsteinError, match="did not reach the prior within 3 steps.*Give more steps"):
        Likelihood(steps=3)(mixture, mixture.sample(4))
    for settings in ({"kind": "uniform"}, {"probes": 0}, {"tolerance": 0.0}, {"bin": -1.0}):
        with pytest.raises(OrnsteinError, match="Give 'rademacher' or 'gaussian'"):
            Likelihood(**settings)
