"""The particle engine: weights, who survives, how copies part, and that nothing passes between samples."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.steering.layers.particles import expand
from ornstein.steering.layers.resample import ancestors, branch, numbers, values, weigh
from ornstein.testbeds import Mixture, Tokens

DOUBLE = torch.float64


def bed(name="flow", **settings) -> Mixture:
    return Mixture.random(catalog.build("processes", name), dims=3, components=4)


class Catch(Controller):
    """n particles, and the states before and after step `at`."""

    def __init__(self, n, at=3):
        self.n, self.at = n, at

    def begin(self, state):
        self.origin = state
        return expand(state, self.n)

    def after(self, before, now):
        if now.step == self.at:
            self.before, self.now = before, now
        return now


def caught(n=6, samples=2, solver="ddim:eta=1", process="flow", **kw) -> Catch:
    catch = Catch(n)
    sample(bed(process), (samples, 3), catalog.build("solvers", solver), 8, controllers=[catch], dtype=DOUBLE, **kw)
    return catch


def test_weights_and_effective_sample_size():
    weights, size = weigh(torch.tensor([[0.0, 0, 0, 0], [0, -1e9, -1e9, -1e9], [0, 0, -1e9, -1e9]]))
    assert torch.allclose(size, torch.tensor([4.0, 1, 2], dtype=DOUBLE)) and torch.allclose(weights.sum(1), size * 0 + 1)
    assert torch.allclose(weigh(torch.tensor([[0.2, 0.3, 0.5]]).log())[0], torch.tensor([[0.2, 0.3, 0.5]], dtype=DOUBLE))


def test_systematic_heirs_are_the_weight_times_n_rounded():
    weights, u = torch.rand(300, 7, dtype=DOUBLE).softmax(1), torch.rand(300, 7, dtype=DOUBLE)
    counts = torch.nn.functional.one_hot(ancestors(weights, u), 7).sum(1)
    assert ((counts - 7 * weights).abs() < 1).all()
    fixed = torch.tensor([[0.5, 0.0, 0.25, 0.25]], dtype=DOUBLE)
    assert ancestors(fixed, torch.tensor([[0.4]]).double()).tolist() == [[0, 0, 2, 3]]
    assert ancestors(fixed, torch.tensor([[0.1, 0.6, 0.8, 0.999999]]).double(), "multinomial").tolist() == [[0, 2, 3, 3]]


@pytest.mark.parametrize("rule", ["systematic", "multinomial"])
def test_heirs_are_unbiased(rule):
    weights = torch.tensor([[0.05, 0.6, 0.0, 0.35]], dtype=DOUBLE).expand(20000, -1)
    u = NoiseSource.of(0, range(20000)).uniform(0, (4,))
    share = torch.nn.functional.one_hot(ancestors(weights, u, rule), 4).double().mean((0, 1))
    assert torch.allclose(share, weights[0], atol=0.006) and share[2] == 0


def test_numbers_are_those_of_the_sample_and_of_the_step():
    state = caught().now
    first, again, other = numbers(state, 6, 5, 3), numbers(state, 6, 5, 3), numbers(state, 6, 5, 4)
    assert first.shape == (2, 5) and torch.equal(first, again)
    assert len(torch.cat([first, other]).unique()) == 20
    solver = state.memory["noise"].uniform(3, (5,))[::6]
    assert not torch.isclose(first, solver).any()


@pytest.mark.parametrize("solver", ["ddim:eta=1", "ddim", "dpmpp2m"])
def test_copies_part_by_the_posterior_and_the_first_keeps_the_solvers_step(solver):
    catch = caught(n=800, samples=2, solver=solver)
    chosen = torch.tensor([[5] * 800, [7] * 800])
    got = branch(catch.now, chosen, catch.origin)
    x, now = got.x.reshape(2, 800, 3), catch.now
    for b, row in enumerate((5, 800 + 7)):
        assert torch.equal(x[b, 0], now.x[row]) and not torch.equal(x[b, 1], x[b, 0])
        mean, std = now.process.posterior(now.said.x[row], now.said.x0[row], now.times[2], now.times[3])
        assert torch.allclose(x[b, 1:].mean(0), mean, atol=5 * float(std) / 800**0.5)
        assert torch.allclose(x[b, 1:].std(0), std.expand(3), rtol=0.12)
        assert torch.allclose(got.said.x.reshape(2, 800, 3)[b], now.said.x[row].expand(800, 3))
        if solver == "dpmpp2m":
            assert all(torch.equal(v.reshape(2, 800, 3)[b], w[row].expand(800, 3))
                       for v, w in zip(got.memory["answers"], now.memory["answers"]))  # fmt: skip
    assert len(set(got.ids)) == 1600 == len(set(got.noise.keys.tolist()))


def test_who_is_not_copied_keeps_the_solvers_step():
    catch = caught()
    chosen = torch.tensor([[0, 1, 2, 3, 4, 5], [5, 1, 1, 3, 3, 3]])
    got = branch(catch.now, chosen, catch.origin).x.reshape(2, 6, 3)
    want = catch.now.x.reshape(2, 6, 3)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1, [0, 1, 3]], want[1, [5, 1, 3]])
    assert not any(torch.equal(got[1, i], want[1, j]) for i, j in ((2, 1), (4, 3), (5, 3)))


def tokens() -> Tokens:
    data = torch.tensor([[0, 0, 1, 2], [1, 0, 1, 2], [2, 2, 2, 0]])
    return Tokens(data, catalog.build("processes", "masked:tokens=3"), torch.tensor([0.2, 0.3, 0.5]))


def test_tokens_part_by_their_own_posterior():
    catch, one = Catch(1500, 2), tokens()
    sample(one, torch.full((1, 4), 3), catalog.build("solvers", "unmask"), 4, controllers=[catch], seed=1)
    row = int((catch.now.said.x == 3).sum(1).argmax())  # one of which much is hidden
    got = branch(catch.now, torch.full((1, 1500), row), catch.origin)
    said = catch.now.said
    want = one.process.posterior(said.x[row], said.logits[row].softmax(-1), catch.now.times[1], catch.now.times[2])
    share = torch.nn.functional.one_hot(got.x[1:], 4).double().mean(0)
    assert (said.x[row] == 3).sum() >= 2 and torch.allclose(share, want, atol=0.05)
    assert torch.equal(got.x[0], catch.now.x[row])


def test_the_value_of_tokens_is_the_mean_over_draws_and_what_is_seen_stays():
    catch, one = Catch(1500, 2), tokens()
    sample(one, torch.full((1, 4), 3), catalog.build("solvers", "unmask"), 4, controllers=[catch], seed=1)
    seen = []

    def reward(x, cond):
        seen.append(x)
        return (x[:, 0] == 2).float()

    found = values(reward, catch.now, 3)
    said = catch.now.said
    shown = said.x != 3
    assert len(seen) == 3 and all(torch.equal(x[shown], said.x[shown]) and int(x.max()) < 3 for x in seen)
    assert torch.allclose(found, sum((x[:, 0] == 2).double() for x in seen) / 3)
    hidden = ~shown[:, 0]
    assert abs(float(found[hidden].mean() - said.logits[hidden, 0].softmax(-1)[:, 2].mean())) < 0.03


def test_what_cannot_be_is_refused():
    with pytest.raises(OrnsteinError, match="systematic"):
        ancestors(torch.ones(1, 2) / 2, torch.rand(1, 2), "sistematic")
    state = caught().now
    with pytest.raises(OrnsteinError, match="asked the denoiser nothing"):
        values(lambda x, c: x[:, 0], type(state)(state.x, 1, None, state.noise, None, state.ids))
