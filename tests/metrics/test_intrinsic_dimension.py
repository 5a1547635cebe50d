"""Dimensions that are known, and the spectra behind them."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.intrinsic_dimension import IntrinsicDimension
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture, MoLRG


@pytest.mark.parametrize("way", ["denoiser", "flow"])
@pytest.mark.parametrize("rank", [1, 4])
def test_subspaces(way, rank):
    exact = MoLRG.random(Flow(), 9, rank, 1, ridge=0.001)
    meter = IntrinsicDimension(0.05, way)
    assert meter(exact, exact.sample(5)).value == rank
    if way == "denoiser":
        assert IntrinsicDimension(1e-5)(exact, exact.sample(5)).value == 9, "below the ridge all directions count"


def test_the_spectrum_of_a_gaussian():
    v = torch.tensor([1.0, 0.5, 0.01])
    exact = Mixture(torch.zeros(1, 3), v[None], EDM())
    x, variance = exact.sample(2), v.double() ** 2
    got = IntrinsicDimension(0.1).spectrum(exact, x)
    assert torch.allclose(got, (variance / (variance + 0.01)).expand(2, -1), atol=1e-8)
    flow = IntrinsicDimension(0.1, "flow", 1.0, steps=300).spectrum(exact, x)
    assert torch.allclose(flow, ((variance + 0.01) / (variance + 1)).sqrt().expand(2, -1), atol=2e-3)


def test_errors():
    with pytest.raises(OrnsteinError, match="Did you mean 'flow'"):
        IntrinsicDimension(way="flows")
    with pytest.raises(OrnsteinError, match="0 < sigma < sigma_from"):
        IntrinsicDimension(2.0)
