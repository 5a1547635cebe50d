"""What the contract leaves unsaid of TaylorSeer: what the forecasts are exact for, and when."""

from __future__ import annotations

from typing import ClassVar

import pytest
import small
import torch
from small import TIMES
from torch import nn

from ornstein.acceleration.taylorseer import TaylorSeer
from ornstein.core.errors import OrnsteinError
from ornstein.core.sites import Seat


class Power(nn.Module):
    seat: ClassVar[Seat] = Seat("branch", "mlp")

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x):
        return x**self.power


class Holder(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, power: int) -> None:
        super().__init__()
        self.mlp = Power(power)

    def forward(self, x):
        return self.mlp(x)


class Curve(nn.Module):
    """Fed with its own time, its branch is the polynomial t^power."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Holder(power)])

    def forward(self, x):
        return self.blocks[0](x)


def forecasts(power, plugin, times):
    return small.forecasts(Curve(power), plugin, times, "blocks.0.mlp/branch")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_newton_is_exact_for_polynomials_on_an_uneven_grid(order):
    out, computed = forecasts(order, TaylorSeer(2, order, warmup=order + 1), TIMES)
    assert torch.allclose(out, TIMES**order, atol=1e-6)
    assert computed < len(TIMES)
    out, _ = forecasts(order + 1, TaylorSeer(2, order, warmup=order + 1), TIMES)
    assert not torch.allclose(out, TIMES ** (order + 1), atol=1e-4)


def test_the_published_series_and_its_error():
    """With N = 2 and evaluations 0, 1, 2, ... as times: exact for a line; k^2 comes out as k^2 - N k."""
    even = torch.arange(13.0, dtype=torch.float64)[:, None].expand(-1, 2)
    out, _ = forecasts(1, TaylorSeer(2, 1, faithful=True), even)
    assert torch.allclose(out, even)
    out, _ = forecasts(2, TaylorSeer(2, 2, warmup=1, faithful=True), even)
    assert torch.allclose(out[10], even[10] ** 2)
    # f = 100, D1 = (100 - 64) / 2, D2 = (18 - 14) / 2: 100 + 18 + 2 / 2, where 11^2 = 121 = 119 + N k with k = 1
    assert torch.allclose(out[11], torch.full((2,), 119.0, dtype=torch.float64))
    newton, _ = forecasts(2, TaylorSeer(2, 2, warmup=1), even)
    assert torch.allclose(newton[5:], even[5:] ** 2)


def test_order_zero_reuses_and_the_schedule_counts_evaluations():
    out, computed = forecasts(1, TaylorSeer(3, 0, warmup=2), TIMES)
    assert torch.equal(out[2].double(), TIMES[1]) and torch.equal(out[3].double(), TIMES[1])
    assert torch.equal(out[4].double(), TIMES[4]) and computed == 2 + 3  # 0, 1, 4, 7, 10


def test_a_time_asked_twice_does_no_harm():
    """Heun asks for the same time at the end of a step and at the start of the next."""
    twice = TIMES.repeat_interleave(2, 0)
    out, _ = forecasts(1, TaylorSeer(2, 2, warmup=4), twice)
    assert torch.allclose(out, twice, atol=1e-6)


@pytest.mark.parametrize("settings", [{"interval": 0}, {"order": -1}, {"warmup": 0}])
def test_senseless_settings_are_refused(settings):
    with pytest.raises(OrnsteinError, match="at least"):
        TaylorSeer(**settings)
