"""Time grids and the one place that broadcasts."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.core.process import Levels, Process, expand, grid, pick
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP


def test_expand_adds_axes_behind():
    like = torch.zeros(3, 4, 5, 6)
    assert expand(0.5, like).shape == (1, 1, 1, 1)
    assert expand(torch.rand(3), like).shape == (3, 1, 1, 1)
    assert expand(torch.rand(1), like).shape == (1, 1, 1, 1)
    assert expand(torch.rand(3, 4), like).shape == (3, 4, 1, 1)
    assert expand(torch.rand(3, 1, 5), like).shape == (3, 1, 5, 1)
    assert expand(0.5, like).dtype == torch.float32 and expand(0.5, like.double()).dtype == torch.float64
    assert expand(0.5, like.bfloat16()).dtype == torch.float32  # times keep their digits


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 4, 5, 6, 1)])
def test_expand_refuses_what_does_not_fit(shape):
    with pytest.raises(OrnsteinError, match=r"times of shape .* do not fit a sample of shape \(3, 4, 5, 6\)"):
        expand(torch.rand(shape), torch.zeros(3, 4, 5, 6))


def test_an_end_point_moves_the_mean():
    class Bridge(Flow):
        def coefficients(self, t):
            return 1 - t, t * (1 - t), -torch.ones_like(t), 1 - 2 * t, t, torch.ones_like(t)

    x0, noise, y = torch.randn(3, 2, 4)
    L = Bridge().at(0.25, x0)
    assert torch.allclose(Bridge().corrupt(x0, noise, 0.25, y), 0.75 * x0 + 0.1875 * noise + 0.25 * y)
    assert torch.allclose(Bridge().prior(noise, y), y) and float(L.db) == 1


def test_known_grids():
    assert torch.allclose(grid(Flow(), 4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    quadratic = torch.tensor([1, 0.5625, 0.25, 0.0625, 0], dtype=torch.float64)
    assert torch.allclose(grid(Flow(), 4, "quadratic"), quadratic)
    # Karras et al. 2022, eq. 5, with sigma from 80 to 0.002 and rho = 7
    want = [(80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(10)] + [0]
    assert torch.allclose(grid(EDM(), 10, "karras"), torch.tensor(want, dtype=torch.float64), rtol=1e-9)
    levels = VP().at(grid(VP(), 10, "logsnr")[:-1], torch.zeros(10, dtype=torch.float64)).logsnr
    assert torch.allclose(levels.diff(), levels.diff()[0].expand(9), rtol=1e-3)
    # Esser et al. 2024, eq. 23: t' = shift t / (1 + (shift - 1) t)
    t = grid(Flow(), 8)
    assert torch.allclose(grid(Flow(), 8, "uniform:shift=3"), 3 * t / (1 + 2 * t))


def test_own_times():
    times = [0.9, 0.5, 0.2]
    assert grid(Flow(), 99, times).tolist() == times
    for bad in ([0.5], [0.2, 0.9], [0.9, 0.9, 0.1], [0.9, float("nan"), 0.1], [0.9, 0.1, -0.1], [[0.9, 0.1]]):
        with pytest.raises(OrnsteinError, match="the given times do not decrease"):
            grid(Flow(), 2, bad)


@pytest.mark.parametrize("steps", [0, -3, 2.5, "7", None, True])
def test_steps_must_be_a_positive_whole_number(steps):
    with pytest.raises(OrnsteinError, match=r"steps=.* is not a positive whole number. Ask for at least 1 step."):
        grid(Flow(), steps)


def test_unknown_grid():
    with pytest.raises(OrnsteinError, match="unknown method in grids/ 'karas'. Did you mean 'karras'?"):
        grid(Flow(), 4, "karas")


def test_levels_agree_with_each_other():
    L = Flow().at(torch.tensor([0.25, 0.5]), torch.zeros(2, 3, dtype=torch.float64))
    assert isinstance(L, Levels)
    assert torch.allclose(L.sigma.flatten(), torch.tensor([1 / 3, 1.0], dtype=torch.float64))
    assert torch.allclose(L.flow_time, L.t) and torch.allclose(L.logsnr, -2 * L.sigma.log())


def test_a_scalar_time_is_reckoned_once_on_the_host_in_float64():
    like = torch.zeros(3, 2, dtype=torch.bfloat16)
    L = Flow().at(0.25, like)
    assert L.a.shape == () and L.a.dtype == torch.float64 and float(L.a) == 0.75
    assert Flow().at(torch.tensor(0.25), like) is L and Flow().at(0.5, like) is not L
    assert VP().at(0.25, like) is not VP(schedule="linear").at(0.25, like)
    assert (L.a * like).dtype == torch.bfloat16  # it does not lift the sample's type
    rows = Flow().at(torch.tensor([0.25, 0.25, 0.5]), like.float())
    assert rows.a.shape == (3, 1) and rows.a.dtype == torch.float32


def test_a_process_that_can_change_is_not_remembered():
    class Loose(Process):
        slope = 1.0

        def coefficients(self, t):
            return 1 - t, self.slope * t, -torch.ones_like(t), self.slope * torch.ones_like(t)

        def time(self, logsnr):
            return torch.sigmoid(-logsnr / 2)

    loose = Loose()
    assert float(loose.at(0.5, torch.zeros(1)).s) == 0.5
    loose.slope = 2.0
    assert float(loose.at(0.5, torch.zeros(1)).s) == 1.0


def test_pick_takes_scalars_and_rows():
    one, two = torch.ones(2, 2), torch.zeros(2, 2)
    assert pick(torch.tensor(True), one, two) is one and pick(torch.tensor(False), one, two) is two
    assert pick(torch.tensor([[True], [False]]), one, two).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()])
def test_the_posterior_is_bayes(process):
    """q(x_s | x_t, x_0) by the product of two Gaussians, from the joint of x_s and x_t given x_0."""
    x0, x = torch.randn(2, 4, 3, dtype=torch.float64)
    t, s = 0.7 * process.t_max, 0.3 * process.t_max
    now, to = process.at(t, x), process.at(s, x)
    A = now.a / to.a
    precision = A**2 / (now.s**2 - A**2 * to.s**2) + 1 / to.s**2
    want = (A / (now.s**2 - A**2 * to.s**2) * x + to.a * x0 / to.s**2) / precision
    mean, std = process.posterior(x, x0, t, s)
    assert torch.allclose(mean, want, rtol=1e-9) and torch.allclose(std, precision**-0.5, rtol=1e-9)
    rows, spread = process.posterior(x, x0, torch.full((4,), t), torch.tensor([s, s, s, 0.0]))
    assert torch.allclose(rows[:3], want[:3], rtol=1e-5) and torch.allclose(rows[3], x0[3]) and spread[3] == 0
