"""Each step draws until it is better, never more than it may; rows that draw again are put back where they were."""

from dataclasses import replace

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.steering.hallucination import Hallucination
from ornstein.steering.rbf import RBF, converted
from ornstein.testbeds import Mixture, Tokens

SOLVERS = ["ddim:eta=1", "ddim", "interpolant_sde", "dpmpp2m"]
WALK = catalog.build("solvers", "ddim:eta=1")


def bed(process="flow") -> Mixture:
    return Mixture.random(catalog.build("processes", process), dims=2, components=5)


def first(x, cond):
    return x[:, 0]


def drawn(part, solver="ddim:eta=1", samples=6, steps=8, **kw):
    run = Run()
    x = sample(bed(), (samples, 2), catalog.build("solvers", solver), steps, controllers=[part], run=run,
               dtype=torch.float64, **kw)  # fmt: skip
    return x, run.record.facts["rbf"], run


class Watch(Controller):
    def __init__(self):
        self.seen = []

    def after(self, before, now):
        self.seen.append((before, now))
        return now


@pytest.mark.parametrize("solver", SOLVERS)
def test_quota_1_is_the_plain_sampler(solver):
    plain = sample(bed(), (4, 2), catalog.build("solvers", solver), 6)
    for part in (RBF(first, 1), RBF(None, 8)):
        assert torch.equal(sample(bed(), (4, 2), catalog.build("solvers", solver), 6, controllers=[part]), plain)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_depend_on_its_neighbours(solver):
    cond = {"label": torch.tensor([0, 1, 2, 5, 5, 5])}
    together, fact, _ = drawn(RBF(first, 5), solver, cond=cond)
    for k in (0, 4):
        alone, own, _ = drawn(RBF(first, 5), solver, samples=1, ids=[k], cond={"label": cond["label"][k : k + 1]})
        assert torch.allclose(together[k : k + 1], alone, atol=1e-12) and torch.equal(fact["used"][k], own["used"][0])


@pytest.mark.parametrize("rollover", [True, False])
def test_the_calls_of_a_step_are_its_quota_and_what_was_saved(rollover):
    _, fact, run = drawn(RBF(first, 6, rollover=rollover), samples=30)
    used, r = fact["used"], fact["rewards"]
    assert (used[:, 0] == 3).all()  # half of the quota
    for k in range(1, 8):
        saved = (6 * k - used[:, :k].sum(1)) if rollover else 0
        best = r[:, :k].max(1).values
        better = r[:, k] > best
        assert (used[:, k] <= 6 + saved).all() and (k < 7) >= bool((used[:, k] < 6 + saved).all())
        if k < 7:
            assert (used[~better, k] == (6 + saved)[~better] if rollover else used[~better, k] == 6).all()
            assert better.any() and (used[better, k] < 6).any()
        else:
            assert (used[:, k] == 6 + saved).all()
    if rollover:
        assert (used.sum(1) == 48).all()
    assert run.record.calls["evaluations"] == int(used.max(0).values.sum())  # who is done does not go through it again


def test_what_is_taken_is_the_best_that_was_drawn_or_the_first_that_is_better():
    watch = Watch()
    x, fact, _ = drawn_with(watch, RBF(first, 4))
    tries = {k: [] for k in range(8)}
    for before, now in watch.seen:
        tries[before.step].append(float(now.said.x0[0, 0]))
    for k, found in tries.items():
        assert len(found) == fact["used"][0, k] and fact["rewards"][0, k] == max(found)
        if 0 < k < 7:
            best = max(float(v) for v in fact["rewards"][0, :k])
            assert all(v <= best for v in found[:-1])  # it stops at the first that is better
    assert torch.allclose(x[0, 0], fact["rewards"][0, -1])  # the last step goes to x0hat


def drawn_with(watch, part):
    run = Run()
    x = sample(bed(), (1, 2), WALK, 8, controllers=[watch, part], run=run, dtype=torch.float64)
    return x, run.record.facts["rbf"], watch


def test_a_candidate_is_drawn_from_what_the_step_before_said():
    """x_s of each further candidate lies about the posterior's mean, given the candidate that was taken before."""
    watch, gaps = Watch(), []
    sample(bed(), (300, 2), WALK, 4, controllers=[watch, RBF(first, 6, starts=1)], dtype=torch.float64)
    process = bed().process
    for before, _ in watch.seen:
        if before.step == 2 and len(before.ids) < 300:
            mean, std = process.posterior(before.said.x, before.said.x0, before.times[1], before.times[2])
            gaps.append((before.x - mean) / std)
    z = torch.cat(gaps)
    assert len(z) > 200 and z.mean().abs() < 0.12 and (z.std() - 1).abs() < 0.08 and len(z.unique()) == z.numel()


def test_rows_are_put_back_with_all_that_is_theirs():
    """After each step: x, prediction, noise and the solver's memory of every row are of the candidate that was taken, and no
    stream of noise serves two tries."""
    inner, outer, run = Watch(), Watch(), Run()
    sample(bed(), (7, 2), WALK, 8, controllers=[inner, RBF(first, 5), outer], run=run, dtype=torch.float64)
    done = [now for before, now in outer.seen if now.step == before.step + 1]
    assert len(done) == 8 and all(now.ids == tuple(range(7)) for now in done)
    process, rewards = bed().process, run.record.facts["rbf"]["rewards"]
    for k, now in enumerate(done):
        assert torch.equal(now.said.x0[:, 0], rewards[:, k]) and torch.equal(now.memory["noise"].keys, now.noise.keys)
        mean, std = process.posterior(now.said.x, now.said.x0, now.times[k], now.times[k + 1])
        assert ((now.x - mean).abs() <= 5 * std + 1e-9).all()
        tried = {tuple(x): key for before, seen in inner.seen if before.step == k
                 for x, key in zip(seen.x.tolist(), seen.noise.keys.tolist())}  # fmt: skip
        assert [tried[tuple(x)] for x in now.x.tolist()] == now.noise.keys.tolist()
    again = [key for before, _ in inner.seen if len(before.ids) < 7 or before.ids != tuple(range(7))
             for key in before.noise.keys.tolist()]  # fmt: skip
    assert len(again) == len(set(again)) > 50


def test_other_meters_follow_the_candidates_that_were_taken():
    """The sums of a meter that comes first in the list are those of the trajectory that was kept."""

    class Keep(Controller):
        def begin(self, state):
            return replace(state, facts=state.facts | {"path": torch.zeros(len(state.x), 0)})

        def after(self, before, now):
            path = torch.cat([now.facts["path"], now.said.x0[:, :1].float()], 1)
            return replace(now, facts=now.facts | {"path": path})

    run = Run()
    sample(bed(), (5, 2), WALK, 8, controllers=[Keep(), RBF(first, 5)], run=run, dtype=torch.float64)
    assert torch.allclose(run.record.facts["path"].double(), run.record.facts["rbf"]["rewards"], atol=1e-6)
    sample(bed(), (5, 2), WALK, 8, controllers=[Hallucination(), RBF(first, 5)])


def test_the_conversion_of_the_interpolant_is_a_grid():
    flow, vp = (catalog.build("processes", name) for name in ("flow", "vp"))
    times = converted(flow, vp, 10)
    assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    like, inner = torch.empty(9, dtype=torch.float64), torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    assert torch.allclose(flow.at(times[1:-1], like).logsnr, vp.at(inner, like).logsnr, atol=1e-6)
    there = sample(bed("vp"), (4, 2), WALK, 10, dtype=torch.float64)
    here = sample(bed(), (4, 2), WALK, 10, rule=times.tolist(), dtype=torch.float64)
    assert torch.allclose(there, here, atol=0.02)  # the variance-preserving prior is not quite pure noise


def test_tokens():
    data = torch.tensor([[0, 0, 1, 2], [1, 0, 1, 2], [2, 2, 2, 0], [2, 1, 0, 0]])
    one = Tokens(data, catalog.build("processes", "masked:tokens=3"))
    last = lambda x, c: (x[:, 3] == 0).double()  # noqa: E731
    x = sample(one, torch.full((60, 4), 3), catalog.build("solvers", "unmask"), 12, controllers=[RBF(last, 4)])
    assert last(x, None).mean() > 0.75 and (one.which(x) < 4).double().mean() > 0.7


def test_what_cannot_go_back_is_refused():
    with pytest.raises(OrnsteinError, match="ddim:eta=1"):
        drawn(RBF(first, 5), "dpmpp3m")
    for bad in ({"quota": 0}, {"quota": 2.5}, {"quota": 3, "starts": 4}, {"quota": 3, "starts": 0}):
        with pytest.raises(OrnsteinError, match="at least 1 call"):
            RBF(first, **bad)
