"""The curl of linear denoisers, whose Jacobian is known, and the gauge condition."""

import pytest
import torch

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.metrics.conservativity import Conservativity, gauge_residual
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

MATRIX = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(matrix):
    return Denoiser(lambda x, told, cond: x @ matrix.T, EDM(), "x0")


def test_a_linear_denoiser_exactly_and_by_probes():
    want = (MATRIX - MATRIX.T).norm() / MATRIX.norm()
    assert torch.allclose(Conservativity().per_sample(linear(MATRIX), X), want.expand(4), atol=1e-12)
    by_probes = Conservativity(sigmas=(1.0,), exact=0, probes=600).per_sample(linear(MATRIX), X)
    assert torch.allclose(by_probes, want.expand(4), rtol=0.06)


def test_the_ends_of_the_scale():
    assert Conservativity().per_sample(linear(MATRIX + MATRIX.T), X).max() < 1e-12
    odd = Conservativity().per_sample(linear(MATRIX - MATRIX.T), X)
    assert torch.allclose(odd, torch.full_like(odd, 2.0))
    assert Conservativity(exact=0).per_sample(linear(MATRIX + MATRIX.T), X).max() < 1e-12


def test_gauge_of_a_mixture():
    exact = Mixture.random(Flow(), 3, 4, 0.5)
    turn = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.0, 2.0], [-0.5, -2.0, 0.0]], dtype=torch.float64)

    def field(straight):
        def score(x, told, cond):
            true = exact(x, exact.process.time(told)).score
            return true + (x if straight else true) @ turn
        return Denoiser(score, Flow(), "score", time="logsnr")

    y = exact.sample(6, 1) + 0.5
    assert gauge_residual(field(False), exact, y, 0.5).abs().max() < 1e-10
    assert gauge_residual(field(True), exact, y, 0.5).abs().max() > 0.1
    assert gauge_residual(exact, exact, y, 0.5).abs().max() == 0
    vectors = torch.randn(4000, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sign()
    close = gauge_residual(field(True), exact, y, 0.5, None, vectors) - gauge_residual(field(True), exact, y, 0.5)
    assert close.abs().max() < 0.1


def test_the_gauge_residual_of_a_stretch():
    one = Mixture(torch.zeros(1, 2), torch.tensor(1.0), EDM())
    field = Denoiser(lambda x, told, cond: one(x, (-told / 2).exp()).score + 0.3 * x, EDM(), "score", time="logsnr")
    y = torch.tensor([[1.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    left = 0.3 * (2 - y.square().sum(1) / 1.25)  # div r + <r, score> of r = 0.3 y at sigma 1/2
    want = 0.5 * left / (0.3**2 * y.square().sum(1)).mean().sqrt()
    assert torch.allclose(gauge_residual(field, one, y, 0.5), want, atol=1e-10)


def test_errors():
    with pytest.raises(OrnsteinError, match="Give at least 1"):
        Conservativity(probes=0)
