"""Whatever the potential, paths are weighed by exp(scale r(x_0)) in all; more particles come nearer to that law."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, attach, current
from ornstein.steering.fk import FK, POTENTIALS
from ornstein.testbeds import Mixture, Tokens

WALK = catalog.build("solvers", "ddim:eta=1")


def bed() -> Mixture:
    return Mixture.random(catalog.build("processes", "flow"), dims=2, components=5)


def first(x, cond):
    return x[:, 0]


class Watch(Controller):
    def __init__(self):
        self.seen = []

    def after(self, before, now):
        self.seen.append((before, now))
        return now

    def end(self, state):
        self.last = state
        return state


def drawn(part, samples=3, steps=12, solver=WALK, **kw):
    run = Run()
    x = sample(bed(), (samples, 2), solver, steps, controllers=[part], run=run, dtype=torch.float64, **kw)
    return x, run.record.facts["fk"]


@pytest.mark.parametrize("potential", POTENTIALS)
def test_without_resampling_the_weights_are_those_of_the_finished_samples(potential):
    """ess = 0 never resamples: the potentials along the way must cancel."""
    _, fact = drawn(FK(first, 6, 2.5, potential, (0, 1), 7, ess=0.0))
    assert torch.allclose(fact["weights"], (2.5 * fact["rewards"]).softmax(1), atol=1e-12)
    assert fact["ess"].shape == (3, 5) and (fact["resampled"] == 0).all() and fact["calls"] == 6 * 6


@pytest.mark.parametrize("potential", POTENTIALS)
def test_after_resampling_the_rest_of_the_weight_is_left(potential):
    """One resampling after step 6: what is left is exp(scale r_0) over the potential that was spent there."""
    watch = Watch()
    part = FK(first, 6, 2.5, potential, (0.5, 0.5), 1)
    run = Run()
    sample(bed(), (3, 2), WALK, 12, controllers=[part, watch], run=run, dtype=torch.float64)
    at, end = watch.seen[5][1], watch.seen[-1][1]
    left = 2.5 * (end.x[:, 0] - at.said.x0[:, 0])
    assert torch.allclose(run.record.facts["fk"]["weights"], left.reshape(3, 6).softmax(1), atol=1e-10)
    assert (run.record.facts["fk"]["resampled"] == 1).all()


@pytest.mark.parametrize("potential", POTENTIALS)
def test_the_second_potential_knows_the_path(potential):
    """Two points, no resampling at the first: the weights there are of both rewards."""
    watch = Watch()
    part = FK(first, 5, 0.7, potential, (0.25, 0.75), 2, ess=0.0)
    sample(bed(), (2, 2), WALK, 8, controllers=[watch, part], dtype=torch.float64)
    # ess 0 keeps every row, but the rows' noise is fresh after each point: follow the states themselves
    r = [watch.seen[k][1].said.x0[:, 0] for k in (1, 5)]
    log = {"difference": r[1], "max": r[0] + torch.maximum(*r), "sum": 2 * r[0] + r[1]}[potential]
    want = 1 / (0.7 * log).reshape(2, 5).softmax(1).square().sum(1)
    _, fact = drawn(part, 2, 8)
    assert torch.allclose(fact["ess"][:, 1], want, atol=1e-10)


def test_more_particles_come_nearer_to_the_tilted_law():
    """Exact: a linear reward moves each component by scale * variance and weighs it anew."""
    one, scale = bed(), 2.0
    var = one.stds[:, 0] ** 2
    share = (one.weights.log() + scale * one.means[:, 0] + scale**2 * var / 2).softmax(0)
    want = float((share * (one.means[:, 0] + scale * var)).sum())
    got = []
    for n in (1, 4, 20):
        part = FK(first, n, scale, "difference", (0, 1), 11, keep="draw")
        got.append(sample(one, (100, 2), WALK, 20, controllers=[part], seed=2)[:, 0].double().mean().item())
    error = [abs(g - want) for g in got]
    assert error[0] > 0.6 and error[1] < 0.5 * error[0] and error[2] < 0.15, (got, want)


def test_resampling_waits_for_uneven_weights():
    # at the very first point x0hat is the mean of the data for all: even weights
    often, seldom = (drawn(FK(first, 8, 1.5, "difference", (0, 1), 13, ess=e))[1] for e in (1.0, 0.5))
    assert (often["resampled"] == 10).all() and (seldom["resampled"] < 8).all() and (seldom["resampled"] > 0).all()
    assert ((seldom["ess"] < 4).sum(1) == seldom["resampled"]).all()


def test_keep_the_best_or_draw_by_weight():
    x, fact = drawn(FK(first, 6, 2.0))
    assert torch.equal(x[:, 0], fact["rewards"].max(1).values) and torch.equal(fact["chosen"], fact["rewards"].argmax(1))
    x, fact = drawn(FK(first, 6, 1e-9, keep="draw"), samples=200)  # even weights: every particle alike
    assert torch.equal(x[:, 0], fact["rewards"].gather(1, fact["chosen"][:, None])[:, 0])
    assert (torch.bincount(fact["chosen"], minlength=6) > 15).all()


def test_the_points_are_those_of_the_paper():
    assert FK(first).points(100) == {20, 40, 60, 80} and FK(first).points(4) == {1, 2, 3}
    assert FK(first, count=0).points(10) == set() and FK(first, window=(0, 1), count=3).points(2) == {1}


def test_a_reward_that_is_not_a_number_dies_out():
    def odd(x, cond):
        return torch.where(x[:, 0] > 0, x[:, 0], torch.nan)

    x, fact = drawn(FK(odd, 8, 1.0, "difference"), samples=20)
    assert (x[:, 0] > 0).all() and fact["weights"].isfinite().all()


class Memo:
    """Remembers of each row the stream that entered its first block at the last call."""

    effects = catalog.build("acceleration", "firstblock").effects
    grain = "block"

    def select(self, sites):
        return sites[:1]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        memory["last"] = streams["h" if "h" in streams else next(iter(streams))].flatten(1)[:, :8].clone()
        return run(streams)


def test_what_plugins_remember_follows_its_particle():
    from ornstein.model import load

    model, memo, ok = load("digits"), Memo(), []

    class Check(Controller):
        def begin(self, state):
            self.known = {}
            return state

        def on_prediction(self, clock, x, prediction):
            (memory,) = [m for key, m in current().memories.items() if key[2] == clock.ids and m]
            self.known |= {row.numpy().tobytes(): tag for row, tag in zip(x, memory["last"])}
            return prediction

        def after(self, before, now):
            (memory,) = [m for key, m in current().memories.items() if key[2] == now.ids and m]
            want = torch.stack([self.known[row.numpy().tobytes()] for row in now.said.x])
            ok.append(torch.equal(memory["last"], want))
            return now

    detach = attach(model.backbone, memo)
    part = FK(lambda x, c: x.mean((1, 2, 3)), 4, 300.0, window=(0, 1), count=9)
    run = Run()
    try:
        sample(model.denoiser, (2, 1, 8, 8), WALK, 5, cond=model.encode(["3", "7"]), controllers=[part, Check()], run=run)
    finally:
        detach()
    assert ok == [True] * 5 and (run.record.facts["fk"]["resampled"] == 4).all()


def test_tokens_are_steered_to_their_tilted_law():
    data = torch.tensor([[0, 0, 1, 2], [1, 0, 1, 2], [2, 2, 2, 0], [2, 1, 0, 0]])
    one = Tokens(data, catalog.build("processes", "masked:tokens=3"), torch.tensor([0.4, 0.3, 0.2, 0.1]))
    reward = lambda x, c: (x == 0).double().sum(1)  # noqa: E731
    tilted = (one.law.log() + 1.5 * reward(data, None)).softmax(0)
    far = []
    for n in (1, 12):
        part = FK(reward, n, 1.5, "difference", (0, 1), 7, keep="draw")
        x = sample(one, torch.full((120, 4), 3), catalog.build("solvers", "unmask"), 24, controllers=[part])
        share = torch.bincount(one.which(x), minlength=5).double() / len(x)
        far.append(float((share[:4] - tilted).abs().sum() + share[4]) / 2)
    assert far[0] > 0.25 and far[1] < 0.13, far


def test_settings_that_mean_nothing_are_refused():
    for bad, words in (({"potential": "maximum"}, "unknown potential"), ({"rule": "even"}, "rule of resampling"),
                       ({"keep": "all"}, "way to keep"), ({"window": (0.8, 0.2)}, "points in window")):  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            FK(first, 4, **bad)
