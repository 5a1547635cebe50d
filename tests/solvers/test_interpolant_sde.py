"""Every epsilon has the interpolant's law, one-sided and two-sided; without diffusion it is Euler's method."""

import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.prediction import Output
from ornstein.evidence._bridges import Bridge
from ornstein.processes.flow import Flow
from ornstein.processes.interpolant import Interpolant
from ornstein.solvers.euler import Euler
from ornstein.solvers.interpolant_sde import InterpolantSDE
from ornstein.testbeds import Mixture

DIFFUSION = [(0.3, "gamma"), (3.0, "gamma"), (0.3, "constant")]


def gaussians(process):
    one = Mixture(torch.tensor([[0.75]]), torch.tensor(0.5), process)
    return one, Mixture(torch.tensor([[-1.0]]), torch.tensor(0.9), process)


@pytest.mark.parametrize("epsilon, law, gamma", [(0.3, "gamma", "root"), (3.0, "gamma", "sine"), (0.3, "constant", "sine")])
def test_two_sided_law(epsilon, law, gamma):
    """200 steps from one Gaussian end in the other, though they start and stop where gamma is 0."""
    process = Interpolant("linear", gamma)
    data, end = gaussians(process)
    x = sample(Bridge(data, end, process), end.sample(3000, 5), InterpolantSDE(epsilon, law), 200, seed=4)
    assert abs(x.mean() - 0.75) < 0.03 and abs(x.std() - 0.5) < 0.03


@pytest.mark.parametrize("epsilon, law", DIFFUSION)
def test_one_sided_law(epsilon, law):
    one, _ = gaussians(Flow())
    x = sample(one, (3000, 1), InterpolantSDE(epsilon, law), 300, seed=4)
    assert abs(x.mean() - 0.75) < 0.03 and abs(x.std() - 0.5) < 0.025


def test_a_constant_epsilon_narrows_the_law_where_gamma_ends():
    """A limit, not a wish: noise that a step replaces wholly is replaced by too little. Finer steps mend it slowly."""
    one, _ = gaussians(Flow())
    off = [0.5 - sample(one, (3000, 1), InterpolantSDE(2.0, "constant"), n, seed=4).std().item() for n in (50, 200)]
    assert off[0] > 1.2 * off[1] > 0.06
    assert abs(sample(one, (3000, 1), InterpolantSDE(2.0), 200, seed=4).std() - 0.5) < 0.025


def test_the_first_step_from_an_end_point_takes_epsilon_half_way():
    """At y gamma is 0 and epsilon / gamma^2 is not finite: the share that is kept is that of the middle of the step."""
    process = Interpolant("linear", "root")
    x, z = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)

    class Ones:
        def draw(self, k, like):
            return z

    solver, still = InterpolantSDE(), Denoiser(lambda x, t, c: Output(x * 0, extra={"noise": x * 0}), process, time="t")
    times = torch.tensor([1.0, 0.98], dtype=torch.float64)
    got, _ = solver.step(still, process, x, *times, solver.start(x, Ones()))
    gamma = [(2 * t * (1 - t)) ** 0.5 for t in (0.99, 0.98)]
    kept = math.exp(-0.02 / gamma[0])
    assert got[0].item() == pytest.approx(gamma[1] * (1 - kept**2) ** 0.5)


def test_to_first_order_it_is_euler_and_maruyama():
    """x + h (b - epsilon score) + sqrt(2 epsilon |h|) w, score = -eta / gamma, for a short step."""
    process = Interpolant("linear", "root")
    bridge = Bridge(*gaussians(process), process)
    x, t, h, epsilon = torch.randn(50, 1, dtype=torch.float64), 0.6, 1e-6, 0.7
    solver, L, said = InterpolantSDE(epsilon, "constant"), process.at(0.6, x), bridge(x, 0.6)

    class Fixed:
        def draw(self, k, like):
            return self.w * torch.ones_like(like)

    fixed, moved = Fixed(), []
    for fixed.w in (0.0, 1.0):
        memory = solver.start(x, fixed)
        moved.append(solver.step(bridge, process, x, torch.tensor(t), torch.tensor(t - h, dtype=torch.float64), memory)[0])
    h = t - float(torch.tensor(t - h, dtype=torch.float64))
    drift = said.velocity + epsilon / L.s * said.output.extra["noise"]
    step = float(torch.tensor(t)) - (t - h)  # the single-precision 0.6 of the test itself
    assert torch.allclose((moved[0] - x) / -step, drift, atol=0.05 * drift.abs().max().item())
    assert (moved[1] - moved[0]).mean().item() == pytest.approx((2 * epsilon * step) ** 0.5, rel=0.01)


def test_without_diffusion_it_is_eulers_method():
    mixture = Mixture.random(Flow(), dims=4)
    x = torch.randn(6, 4, dtype=torch.float64)
    ode = InterpolantSDE(0.0)
    assert ode.order == 1 and InterpolantSDE().order == 0
    assert torch.equal(sample(mixture, x, ode, 12), sample(mixture, x, Euler(), 12))


def test_refusals():
    process = Interpolant("linear", "root")
    mute = Denoiser(lambda x, t, cond: x * 0, process, time="t")
    y = torch.zeros(2, 3)
    assert torch.equal(sample(mute, y, InterpolantSDE(0.0), 3), y)
    with pytest.raises(OrnsteinError, match="epsilon=0"):
        sample(mute, y, InterpolantSDE(), 3)
    with pytest.raises(OrnsteinError, match="negative"):
        InterpolantSDE(-1.0)
    with pytest.raises(OrnsteinError, match="Did you mean 'constant'"):
        catalog.build("solvers", "interpolant_sde:law=const")
