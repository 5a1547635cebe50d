"""What the contract of processes leaves unsaid: every schedule, both ends of a two-sided interpolant, and its refusals."""

import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.evidence._bridges import Bridge
from ornstein.processes.interpolant import GAMMAS, SCHEDULES, Interpolant
from ornstein.testbeds import Mixture

DOUBLE = torch.float64
T = torch.linspace(0.02, 0.98, 33, dtype=DOUBLE)
TWO = [(s, g) for s in SCHEDULES for g in GAMMAS[1:]]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_sided_schedules(schedule):
    p = Interpolant(schedule)
    L = p.at(T, T)
    assert torch.allclose(p.time(L.logsnr), T, rtol=1e-9) and (L.logsnr.diff() < 0).all()
    ends = [p.at(v, T) for v in (0.0, 1.0)]
    assert abs(ends[0].a - 1) + abs(ends[0].s) + abs(ends[1].a) + abs(ends[1].s - 1) < 1e-12
    ahead, behind = (p.at(T + e, T) for e in (1e-6, -1e-6))
    for name in "as":
        assert torch.allclose((getattr(ahead, name) - getattr(behind, name)) / 2e-6, getattr(L, "d" + name), atol=1e-7)
    if schedule == "trigonometric":
        assert torch.allclose(L.a**2 + L.s**2, torch.ones_like(T))
    flow = catalog.build("processes", "flow").at(T, T)
    assert schedule != "linear" or (torch.equal(L.a, flow.a) and torch.equal(L.ds, flow.ds))


@pytest.mark.parametrize("schedule, gamma", TWO)
def test_two_sided_ends_and_slopes(schedule, gamma):
    p = Interpolant(schedule, gamma, width=0.7)
    x0, y, z = torch.randn(3, 5, 2, dtype=DOUBLE)
    assert torch.allclose(p.corrupt(x0, z, 0.0, y), x0, atol=1e-12)
    assert torch.allclose(p.corrupt(x0, z, 1.0, y), y, atol=1e-12) and torch.allclose(p.prior(z, y), y, atol=1e-12)
    t = T[(T - 0.5).abs() > 0.01]
    here, ahead, behind = (p.at(v, v) for v in (t, t + 1e-6, t - 1e-6))
    for name in "asb":
        slope = (getattr(ahead, name) - getattr(behind, name)) / 2e-6
        assert torch.allclose(slope, getattr(here, "d" + name), atol=1e-6), name
    assert all(torch.isfinite(torch.as_tensor(v)) for e in (0.0, 1.0) for v in (p.at(e, x0).ds, p.at(e, x0).db))


def test_the_noise_in_the_middle():
    """gamma(1/2): root 1/sqrt 2, parabola 1/4, sine 1; by way of pure noise where it is encoded and decoded."""
    for gamma, value in (("root", math.sqrt(0.5)), ("parabola", 0.25), ("sine", 1.0)):
        assert float(Interpolant("linear", gamma, 3.0).at(0.5, T).s) == pytest.approx(3 * value)
    L = Interpolant("encoding-decoding", "sine").at(0.5, T)
    assert abs(L.a) + abs(L.b) < 1e-12


@pytest.mark.parametrize("schedule, gamma", [("linear", "root"), ("trigonometric", "parabola"), ("encoding-decoding", "sine")])
def test_the_exact_bridge_carries_a_gaussian_to_a_gaussian(schedule, gamma):
    """The ground of the evidence: the velocity is that of the quantile path, and eta is -gamma times the score."""
    p = Interpolant(schedule, gamma)
    one = Mixture(torch.tensor([[0.5]]), torch.tensor(0.3), p), Mixture(torch.tensor([[-1.0]]), torch.tensor(0.8), p)
    x = torch.randn(5, 1, dtype=DOUBLE)

    def moments(t):
        L = p.at(t, x)
        return L.a * 0.5 - L.b, (L.a**2 * 0.09 + L.b**2 * 0.64 + L.s**2).sqrt(), L.s

    for t in (0.2, 0.45, 0.7):
        (m, d, g), (m1, d1, _), (m2, d2, _) = moments(t), moments(t + 1e-5), moments(t - 1e-5)
        said = Bridge(*one, p)(x, t)
        assert torch.allclose(said.velocity, (m1 - m2) / 2e-5 + (d1 - d2) / 2e-5 / d * (x - m), atol=1e-6)
        assert torch.allclose(said.output.extra["noise"], g * (x - m) / d**2, atol=1e-9)


def test_refusals():
    with pytest.raises(OrnsteinError, match="Did you mean 'linear'"):
        Interpolant("linaer")
    with pytest.raises(OrnsteinError, match="gamma"):
        Interpolant(gamma="cube")
    with pytest.raises(OrnsteinError, match="no gamma to widen"):
        Interpolant(width=2.0)
    two = catalog.build("processes", "interpolant:schedule=linear,gamma=root")
    with pytest.raises(OrnsteinError, match="signal-to-noise"):
        two.time(torch.zeros(1))
    with pytest.raises(OrnsteinError, match="starts at an end point"):
        two.prior(torch.zeros(2, 2))
