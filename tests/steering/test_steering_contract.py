"""What every controller of steering/ keeps to, over all files of the room; and best of N against its exact expectation."""

from dataclasses import fields

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.best_of_n import BestOfN
from ornstein.testbeds import Mixture

ALL = {e.name: [f.name for f in fields(catalog.load("steering", e.name))] for e in catalog.entries("steering")}
NAMES = [n for n, settings in ALL.items() if "budget" in settings]  # searches: several trajectories for a sample
REWARDED = [n for n in NAMES if "reward" in ALL[n]]
SOLVERS = [DDIM(), DDIM(eta=1.0), DPMpp2M()]


def bed(process=None):
    return Mixture.random(process or Flow(), dims=4, components=4, std=0.4)


def first(x, cond):
    return x[:, 0]


def part(name, budget=1, reward=first, process=None):
    return catalog.build("steering", {"name": name, "budget": budget}, reward=reward, process=process or Flow())


class Watch(Controller):
    """Keeps the states that pass by."""

    def __init__(self):
        self.seen = []

    def after(self, before, now):
        self.seen.append(now)
        return now

    def end(self, state):
        self.last = state
        return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", SOLVERS, ids=["ddim", "ddim-eta", "dpmpp2m"])
def test_budget_1_is_the_plain_sampler(name, solver):
    cond = {"label": torch.tensor([0, 1, 2, 4])}
    plain = sample(bed(), (4, 4), solver, 6, cond=cond)
    assert torch.equal(sample(bed(), (4, 4), solver, 6, cond=cond, controllers=[part(name)]), plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", SOLVERS, ids=["ddim", "ddim-eta", "dpmpp2m"])
def test_a_sample_does_not_depend_on_its_neighbours(name, solver):
    cond = {"label": torch.tensor([0, 1, 2, 4])}
    kw = dict(controllers=[part(name, 5)], dtype=torch.float64)
    together = sample(bed(), (4, 4), solver, 6, cond=cond, **kw)
    alone = sample(bed(), (1, 4), solver, 6, cond={"label": cond["label"][2:3]}, ids=[2], **kw)
    assert together.shape == (4, 4) and torch.allclose(together[2:3], alone, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_particles_have_ids_and_noise_of_their_own(name, eta):
    watch = Watch()
    sample(bed(), (3, 4), DDIM(eta), 4, controllers=[part(name, 4), watch])
    for state in watch.seen:
        assert len(set(state.ids)) == len(state.ids) == len(state.x) == 12
        assert len(set(state.noise.keys.tolist())) == 12 and len({tuple(row) for row in state.x.tolist()}) == 12
        if isinstance(state.memory, dict) and "noise" in state.memory:
            assert torch.equal(state.memory["noise"].keys, state.noise.keys)
    assert watch.last.ids == (0, 1, 2) and len(watch.last.noise.keys) == 3


@pytest.mark.parametrize("name", sorted(set(ALL) - set(NAMES)))
@pytest.mark.parametrize("solver", SOLVERS, ids=["ddim", "ddim-eta", "dpmpp2m"])
def test_a_part_without_a_budget_does_nothing_by_default(name, solver):
    plain = sample(bed(), (4, 4), solver, 6)
    assert torch.equal(sample(bed(), (4, 4), solver, 6, controllers=[catalog.build("steering", name)]), plain)


@pytest.mark.parametrize("name", REWARDED)
def test_a_reward_of_the_wrong_shape_is_refused(name):
    with pytest.raises(OrnsteinError, match="one number each"):
        sample(bed(), (2, 4), DDIM(), 2, controllers=[part(name, 3, reward=lambda x, c: x)])


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_nothing_is_refused(name):
    with pytest.raises(OrnsteinError, match="at least 1"):
        part(name, 0)


def test_the_winner_is_the_best_and_keeps_its_condition():
    cond, watch = {"label": torch.tensor([0, 1, 2])}, Watch()
    x = sample(bed(), (3, 4), DDIM(), 6, cond=cond, controllers=[part("best_of_n", 6), watch])
    found, every = watch.last.facts["best_of_n"], watch.seen[-1].x.reshape(3, 6, 4)
    assert torch.equal(found["rewards"], every[:, :, 0].double()) and torch.equal(x[:, 0], every[:, :, 0].max(1).values)
    assert torch.equal(found["chosen"], every[:, :, 0].argmax(1)) and torch.equal(
        watch.last.cond["label"], cond["label"]
    )
    assert torch.equal(watch.seen[0].cond["label"], torch.tensor([0, 1, 2]).repeat_interleave(6))


def test_the_first_particle_is_the_plain_sample_so_more_is_never_worse():
    for solver in SOLVERS:
        watch = Watch()
        plain = sample(bed(EDM()), (3, 4), solver, 8, rule="karras")
        kw = dict(rule="karras", dtype=torch.float32)
        got = [
            sample(bed(EDM()), (3, 4), solver, 8, controllers=[part("best_of_n", n, process=EDM()), watch], **kw)
            for n in (2, 4, 9)
        ]
        assert torch.allclose(watch.seen[-1].x[::9], plain, atol=1e-6)
        rewards = torch.stack([plain[:, 0], *(x[:, 0] for x in got)])
        assert bool((rewards.diff(dim=0) >= -1e-6).all())


def test_starts_are_of_the_prior_and_independent():
    state = Watch()
    sample(bed(EDM()), (2, 4), DDIM(), 1, controllers=[BestOfN(first, 4000), _Starts(state)])
    x = state.start.x.reshape(2, 4000, 4) / 80
    assert x.mean().abs() < 0.02 and (x.std() - 1).abs() < 0.02
    assert (x[0] * x[1]).mean().abs() < 0.03 and (x[:, 1:] * x[:, :-1]).mean().abs() < 0.03


class _Starts(Controller):
    def __init__(self, watch):
        self.watch = watch

    def begin(self, state):
        self.watch.start = state
        return state


def test_a_reward_that_is_not_a_number_never_wins():
    watch = Watch()
    odd = lambda x, c: torch.where(torch.arange(len(x)) % 3 == 1, x[:, 0], torch.nan)  # noqa: E731
    sample(bed(), (2, 4), DDIM(), 2, controllers=[part("best_of_n", 3, odd), watch])
    assert watch.last.facts["best_of_n"]["chosen"].tolist() == [1, 1]


class _Choose(Controller):
    """Copies of some rows in the middle of the run."""

    def __init__(self, rows):
        self.rows = torch.tensor(rows)

    def after(self, before, now):
        return now.take(self.rows) if now.step == 3 else now


def test_rows_chosen_in_mid_run_bring_their_memory_and_condition():
    """Under a deterministic multistep solver a copy ends where its original would have."""
    cond = {"label": torch.tensor([0, 1, 2, 3])}
    plain = sample(bed(), (4, 4), DPMpp2M(), 8, cond=cond, dtype=torch.float64)
    got = sample(bed(), (4, 4), DPMpp2M(), 8, cond=cond, dtype=torch.float64, controllers=[_Choose([2, 2, 0, 3, 1])])
    assert torch.allclose(got, plain[[2, 2, 0, 3, 1]], atol=1e-12)
