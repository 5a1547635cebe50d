"""What the contract leaves unsaid of TaylorSeer: what the forecasts are exact for, and when."""

from __future__ import annotations

from typing import ClassVar

import pytest
import small
import test_acceleration_contract as contract
import torch
from small import TIMES, UNEVEN
from torch import nn

from ornstein.acceleration.layers.forecast import lagrange, shared
from ornstein.acceleration.taylorseer import TaylorSeer
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
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


class Adds(nn.Module):
    """Adds a polynomial of the time, its argument, to the stream."""

    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x, t):
        return x + t**self.power


class Stack(nn.Module):
    """Three blocks; `passed` are passed by, by the network itself."""

    passed: ClassVar[tuple[int, ...]] = ()

    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Adds(k) for k in range(power - 2, power + 1)])

    def forward(self, x):
        t = x
        for k, block in enumerate(self.blocks):
            x = x if k in self.passed else block(x, t)
        return x


@pytest.mark.parametrize("grain", ["block", "trunk"])
def test_what_blocks_add_is_forecast_and_no_block_is_computed(grain):
    full = Stack()(TIMES)
    out, computed = small.forecasts(Stack(), TaylorSeer(2, 2, 3, grain=grain), TIMES, "blocks.1/block")
    assert torch.allclose(out, full, atol=1e-6) and computed == 3 + 4  # 0, 1, 2, 4, 6, 8, 10
    out, computed = small.forecasts(Stack(), TaylorSeer(order=2, warmup=3, full_at=(5,), grain=grain), TIMES, "blocks.1/block")
    assert torch.allclose(out, full, atol=1e-6) and computed == 4
    line, _ = small.forecasts(Stack(), TaylorSeer(2, 1, 3, grain=grain), TIMES, "blocks.1/block")
    assert not torch.allclose(line, full, atol=1e-3)


def walk(net, plugin, steps=11, passed=lambda k: (), clock=lambda k: Clock(k, t=float(UNEVEN[k]), ids=(0, 1))):
    """Answers to its own time, the same for all rows; passed(k): the blocks that the network passes by in call k."""
    run, out = Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k in range(steps):
                net.passed = passed(k)
                with calling(clock(k)):
                    out.append(net(UNEVEN[k].expand(2, 1)))
    finally:
        detach()
    return torch.stack(out), run.record


@pytest.mark.parametrize("grain", ["block", "trunk"])
def test_places_that_are_not_asked_each_time_keep_to_their_own_times(grain):
    """A block that is passed by now and then is forecast through the evaluations in which it was computed."""
    net = Stack()
    for last in (lambda k: (2,) if k in (1, 3, 6) else (), lambda k: (0,) if k in (1, 4, 5) else ()):
        out, record = walk(net, TaylorSeer(2, 2, 4, grain=grain), passed=last)
        exact = []
        for k in range(11):
            net.passed = last(k)
            exact.append(net(UNEVEN[k].expand(2, 1)))
        gaps = (out - torch.stack(exact)).abs().amax((1, 2))
        if grain == "block":
            assert gaps.max() < 1e-6
        elif 0 in last(4):
            assert gaps[[1, 4, 5]].max() == 0, "nothing is forecast where the first block did not ask"
        assert record.computed_at["blocks.1/block"] < 11 and out.isfinite().all()


def test_the_trunk_does_not_lose_blocks_whose_first_was_passed_by():
    net, rule = Stack(), TaylorSeer(9, 0, 1, grain="trunk")
    out, record = walk(net, rule, steps=4, passed=lambda k: (0,) if k == 2 else ())
    net.passed = (0,)
    assert torch.equal(out[2], net(UNEVEN[2].expand(2, 1))) and record.computed_at["blocks.1/block"] == 2
    assert record.asked_at["blocks.0/block"] == 3


@pytest.mark.parametrize("grain", ["block", "trunk"])
@pytest.mark.parametrize("rows", [False, True])
def test_a_resampling_to_another_number_of_rows_goes_on(grain, rows):
    """Each row is forecast from what it, or the row that it was copied from, has seen."""
    net, run, start = Stack(), Run(), torch.stack([UNEVEN, UNEVEN.flip(0)], 1)[:4, :, None]
    index, out = torch.tensor([1, 0, 1]), []
    detach = attach(net, TaylorSeer(3, 2, 3, grain=grain))
    try:
        with running(run):
            for k, x in enumerate(start):
                x, ids = (x[index], (5, 6, 7)) if k == 3 else (x, (0, 1))
                if k == 3:
                    run.gather(index, (0, 1), ids)
                with calling(Clock(k, t=x[:, 0] if rows else float(UNEVEN[k]), ids=ids)):
                    out.append(net(x))
    finally:
        detach()
    assert run.record.computed_at["blocks.1/block"] == 3, "the fourth evaluation is a forecast"
    if rows:
        assert torch.allclose(out[3], net(start[3][index]), atol=1e-6)
    assert torch.equal(out[3][0], out[3][2]) and not torch.equal(out[3][0], out[3][1])


def test_another_number_of_rows_without_resampling_starts_afresh():
    net, run = Stack(), Run()
    detach = attach(net, TaylorSeer(9, 1, 2, grain="trunk"))
    try:
        with running(run):
            for k, count in enumerate((2, 2, 2, 3, 3, 3)):
                x = UNEVEN[k].expand(count, 1)
                with calling(Clock(k, t=x[:, 0], ids=(0,))):
                    net(x)
    finally:
        detach()
    assert run.record.computed_at["blocks.1/block"] == 4


def test_calls_that_stand_at_one_clock_are_evaluations_of_their_own():
    """Who measures asks again and again at one moment: each call of the network counts."""
    moment = Clock(t=0.5, ids=(0, 1))
    for grain in ("block", "trunk"):
        _, record = walk(Stack(), TaylorSeer(3, 0, 1, grain=grain), steps=9, clock=lambda k: moment)
        assert record.computed_at["blocks.0/block"] == record.computed_at["blocks.2/block"] == 3  # 0, 3, 6


def test_one_time_for_all_rows_is_that_time_in_each_row():
    for rule in (TaylorSeer(2, 2, 3, grain="trunk"), TaylorSeer(3, 1, grain="block"), TaylorSeer(2, 3, 4, grain="block")):
        for like in (lambda t: t, lambda t: t.expand(2), lambda t: t.view(1)):
            rows, _ = walk(Stack(4), rule, clock=lambda k: Clock(k, t=like(UNEVEN[k]), ids=(0, 1)))  # noqa: B023
            assert torch.allclose(walk(Stack(4), rule)[0], rows, atol=1e-12)


def test_weights_of_shared_times_are_those_of_rows():
    for nodes in ([0.5], [0.5, 0.7], [0.3, 0.5, 0.9], [0.3, 0.3, 0.9], [0.3, 0.9, 0.3, 1.0]):
        rows = lagrange(torch.tensor([0.2], dtype=torch.float64), torch.tensor([nodes], dtype=torch.float64))[0]
        assert shared(0.2, nodes) == pytest.approx(rows.tolist())
        mixed = shared(0.2, [torch.tensor([nodes[0]] * 3, dtype=torch.float64), *nodes[1:]])
        assert [float(w[2]) for w in mixed] == pytest.approx(rows.tolist()) and mixed[0].shape == (3,)


CONTRACTS = [contract.test_never_skip_and_detach_are_bit_exact, contract.test_it_skips_says_so_and_stays_near,
             contract.test_branches_share_no_memory, contract.test_two_runs_in_one_thread_do_not_mix,
             contract.test_memory_follows_resampling, contract.test_another_shape_starts_afresh,
             contract.test_bfloat16]  # fmt: skip


@pytest.fixture(params=["block", "trunk", "trunk,faithful=True"])
def grained(request, monkeypatch):
    """The contract of the room sees TaylorSeer with a coarser grain."""
    kinds = f"interval=1,grain={request.param}", f"interval=3,order=2,grain={request.param}", ("dit",)
    monkeypatch.setitem(contract.SETTINGS, "taylorseer", kinds)


@pytest.mark.parametrize("holds", CONTRACTS, ids=lambda f: f.__name__)
def test_coarser_grains_keep_the_contract(grained, holds):
    holds("taylorseer", "dit")


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_coarser_grains_know_no_neighbours(grained, solver):
    contract.test_a_sample_does_not_depend_on_its_neighbours("taylorseer", "dit", solver)


@pytest.mark.parametrize("kind", ["DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel"])
def test_coarser_grains_on_networks_of_diffusers(grained, kind):
    contract.test_on_networks_of_diffusers("taylorseer", kind)


def test_coarser_grains_do_not_fit_a_unet(grained):
    contract.test_a_network_that_it_does_not_fit_is_refused("taylorseer")


def test_the_trunk_is_the_sum_of_its_blocks_and_is_kept_once():
    net, kept = contract.network("dit"), {}
    for grain in ("block", "trunk"):
        run = Run()
        kept[grain] = contract.draw(net, TaylorSeer(3, 2, grain=grain), run=run), run.record
    assert torch.allclose(kept["block"][0], kept["trunk"][0], atol=1e-4)
    held = {g: r.facts["taylorseer"]["cond"]["cache_bytes"] for g, (_, r) in kept.items()}
    assert held["block"] == 4 * held["trunk"] == 4 * 3 * 8 * 16 * 32 * 4  # blocks, values, rows, tokens, width, bytes
    assert len({kept[g][1].computed_at["blocks.3/block"] for g in kept}) == 1
    assert kept["trunk"][1].facts["taylorseer"]["cond"]["evaluations"] == 10


def test_an_unknown_grain_is_refused():
    with pytest.raises(OrnsteinError, match="grain of taylorseer.*'trunc'.*trunk"):
        TaylorSeer(grain="trunc")


@pytest.mark.parametrize("settings", [{"interval": 0}, {"order": -1}, {"warmup": 0}])
def test_senseless_settings_are_refused(settings):
    with pytest.raises(OrnsteinError, match="at least"):
        TaylorSeer(**settings)
