"""Black-Scholes blending: the price, what it chooses, and that every sample chooses for itself."""

import math

import pytest
import torch

from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.guidance.blackscholes import BlackScholes, price
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

OTHERS = ({"label": torch.tensor([1])}, {"label": torch.tensor([3])})
ZERO, DOUBLE = {"label": torch.zeros(6, dtype=torch.long)}, torch.float64


def bed():
    return Mixture.random(Flow(), dims=6, components=4, std=0.6)


def similarity(x0, cond):
    """100 times the exact posterior of the label."""
    every = torch.stack([bed().log_density(x0, 0.0, {"label": torch.full((len(x0),), k)}) for k in range(4)], 1)
    return 100 * every.softmax(1).gather(1, cond["label"][:, None])[:, 0]


class Spy:
    """Writes down the labels that each call was about."""

    def __init__(self):
        self.bed, self.process, self.calls = bed(), bed().process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append((clock.branch, cond["label"].tolist(), x, t))
        return self.bed(x, t, cond, clock)


def test_the_price():
    """The textbook's call: spot 42, strike 40, rate 0.1, half a year, volatility 0.2 (Hull) costs 4.76."""
    assert price(torch.tensor(42.0), 40.0, 0.1, 0.5, 0.2).item() == pytest.approx(4.759, abs=2e-3)
    spot = torch.linspace(0.5, 200, 400, dtype=DOUBLE)
    assert bool((price(spot, 100.0, 0.02, 20.0, 0.5).diff() > 0).all())
    assert price(spot, 100.0, 0.02, 20.0, 0.5, density=True).abs().max() < 1e-11  # the identity, as released


def test_the_cheapest_is_the_least_similar():
    lowest, cheapest = (Spy(), Spy())
    ends = [sample(guide(spy, BlackScholes(similarity, OTHERS, policy)), (6, 6), DDIM(), 8, cond=ZERO, dtype=DOUBLE)
            for spy, policy in ((lowest, "lowest"), (cheapest, "price"))]  # fmt: skip
    assert torch.equal(*ends)
    asked = [c[1] for c in cheapest.calls]
    assert asked[0] == [0] * 6 and len({tuple(a) for a in asked}) > 2 and len(asked) == 8
    for (_, now, x, t), (_, after, _, _) in zip(cheapest.calls, cheapest.calls[1:]):
        x0 = bed()(x, t, {"label": torch.tensor(now)}).x0
        spots = torch.stack([similarity(x0, {"label": torch.full((6,), k)}) for k in (0, 1, 3)])
        assert after == torch.tensor([0, 1, 3])[spots.argmin(0)].tolist()
    assert {c[0] for c in cheapest.calls} == {"cond"}


def test_a_higher_strike_is_a_larger_share():
    shares = []
    for strikes in ((100.0, 100.0), (100.0, 400.0), (400.0, 100.0)):
        spy = Spy()
        sample(guide(spy, BlackScholes(similarity, OTHERS[:1], strikes=strikes)), (6, 6), DDIM(), 20, cond=ZERO, dtype=DOUBLE)
        shares.append(sum(c[1].count(1) for c in spy.calls))
    assert shares[2] < shares[0] < shares[1]


def test_with_unequal_strikes_it_is_the_price_that_counts():
    """0.9 of a strike of 1 is cheaper than 50 of a strike of 100, though nearer to its strike."""
    spy, spots = Spy(), lambda x0, cond: torch.where(cond["label"] == 1, 0.9, 50.0)
    sample(guide(spy, BlackScholes(spots, OTHERS[:1], strikes=(100.0, 1.0))), (6, 6), DDIM(), 3, cond=ZERO)
    assert [c[1] for c in spy.calls] == [[0] * 6, [1] * 6, [1] * 6]


def test_far_below_the_strike_the_less_similar_still_wins():
    """Prices that are both 0 in double precision."""
    tiny = BlackScholes(lambda x0, cond: torch.where(cond["label"] == 1, 1e-8, 1e-7), OTHERS[:1], vol=0.01)
    spy = Spy()
    sample(guide(spy, tiny), (6, 6), DDIM(), 4, cond=ZERO)
    assert [c[1] for c in spy.calls] == [[0] * 6, [1] * 6, [1] * 6, [1] * 6]


@pytest.mark.parametrize("policy,labels", [("alternate", [0, 1, 3, 0, 1, 3, 0]), ("parts", [0, 0, 0, 1, 1, 3, 3])])
def test_policies_that_know_no_similarity(policy, labels):
    spy = Spy()
    sample(guide(spy, BlackScholes(None, OTHERS, policy)), (6, 6), DDIM(), 7, cond=ZERO)
    assert [c[1] for c in spy.calls] == [[k] * 6 for k in labels]


def test_a_sample_chooses_for_itself_and_memory_follows_resampling():
    rule, kw = BlackScholes(similarity, OTHERS), dict(dtype=DOUBLE)
    whole = sample(guide(bed(), rule), (6, 6), DDIM(), 8, cond=ZERO, **kw)
    one = sample(guide(bed(), rule), (1, 6), DDIM(), 8, cond={"label": torch.tensor([0])}, ids=[4], **kw)
    assert torch.allclose(whole[4:5], one, atol=1e-10)

    class Turn(Controller):
        def after(self, before, now):
            return now.take(torch.arange(5, -1, -1)) if now.step == 4 else now

    turned = sample(guide(bed(), rule), (6, 6), DDIM(), 8, cond=ZERO, controllers=[Turn()], **kw)
    assert torch.allclose(turned.flip(0), whole, atol=1e-10)


@pytest.mark.parametrize("act,words", [
    (lambda: BlackScholes(None, OTHERS), "no similarity"), (lambda: BlackScholes(similarity, OTHERS, "pric"), "unknown policy"),
    (lambda: BlackScholes(similarity, OTHERS, strikes=(1.0,)), "strikes"), (lambda: BlackScholes(similarity, (ZERO,)), "one row"),
    (lambda: sample(guide(bed(), BlackScholes(similarity, OTHERS)), (2, 6), DDIM(), 2), "no condition")])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()


def test_vol_and_time_change_prices_not_their_order():
    spot = torch.tensor([5.0, 20.0, 60.0, 99.0], dtype=DOUBLE)
    for vol in (0.2, 1.0):
        for tau in (1.0, 30.0):
            assert price(spot, 100.0, 1 / 30, tau, vol).argsort().tolist() == [0, 1, 2, 3]
    assert math.isfinite(price(spot, 100.0, 1 / 30, 1.0, 1e-3).sum().item())
