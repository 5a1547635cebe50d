"""The contract of search/: every file, with an objective that needs no model."""

from __future__ import annotations

import importlib

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.process import grid
from ornstein.processes.flow import Flow

ENTRIES = catalog.entries("search")
NAMES = [e.name for e in ENTRIES]
STEPS = 5
# what each part moves, beside the times
STARTS = {"s3": {"decisions": torch.tensor([[0, 1, 0, 0, 0]] * STEPS)}, "autodiffusion": {"blocks": torch.zeros(STEPS, 4)}}
each = pytest.mark.parametrize("name", NAMES)


def start(name):
    return {"times": grid(Flow(), STEPS)} | STARTS.get(name, {})


def part(name, budget, seed=0):
    """The evidence says TRIAL = a text that builds a small search."""
    module = importlib.import_module("ornstein.evidence." + catalog.find(name, "search").path.replace("/", "."))
    known, settings = catalog.parse(module.TRIAL)
    return catalog.build("search", {"name": known, "budget": budget, "seed": seed} | settings)


class Objective:
    """Lower where the times are near t^2 and, of the further decisions, where few entries are set; counts its calls."""

    def __init__(self, fails=lambda candidate: False):
        self.asked, self.fails = [], fails

    def __call__(self, candidate):
        self.asked.append(candidate)
        times = candidate["times"]
        wish = torch.linspace(1, 0, len(times), dtype=torch.float64) ** 2
        rest = candidate["decisions"].double().mean() if "decisions" in candidate else 0.0
        return float("nan") if self.fails(candidate) else float((times - wish).abs().mean() + 0.1 * rest)


def same(one: Artefact, other: Artefact) -> bool:
    return set(one.arrays) == set(other.arrays) and all(torch.equal(v, other.arrays[k]) for k, v in one.arrays.items())


@each
def test_budget_1_is_the_start(name):
    found, objective = None, Objective()
    found = part(name, 1).run(objective, start(name))
    assert len(objective.asked) == 1 and found.kind == "schedule"
    for key, value in start(name).items():
        assert torch.equal(found.arrays[key].double(), value.double()), key


@each
def test_it_finds_something_within_its_budget_and_is_never_worse_than_its_start(name):
    for seed in range(4):
        objective = Objective()
        found = part(name, 60, seed).run(objective, start(name))
        marks = {tuple(map(str, (v.tolist() for v in c.values()))) for c in objective.asked}
        assert len(objective.asked) == len(marks) == found.settings["evaluations"] == len(found.arrays["scores"]) == 60
        mine = Objective()({k: v for k, v in found.arrays.items() if k != "scores"})
        assert mine == found.settings["score"] == found.arrays["scores"].min() < found.settings["score_of_start"]
    flat = part(name, 20).run(lambda candidate: 1.0, start(name))
    assert torch.equal(flat.arrays["times"], start(name)["times"]), "of equals the start wins"


@each
def test_schedules_are_legal(name):
    """Times decrease between the ends of the start, decisions have their options, and no more is computed."""
    objective = Objective()
    part(name, 150).run(objective, start(name))
    for one in objective.asked:
        times = one["times"]
        assert times.dtype == torch.float64 and times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())
        if "decisions" in one:
            assert bool((one["decisions"] >= 0).all()) and one["decisions"].max(0)[0].tolist() <= [1, 2, 1, 1, 1]
        if "blocks" in one:
            assert len(one["blocks"]) == len(times) - 1 and int((~one["blocks"]).sum()) <= STEPS * 4


@each
def test_deterministic_in_its_seed(name):
    one, two, other = (part(name, 40, seed).run(Objective(), start(name)) for seed in (3, 3, 4))
    assert same(one, two) and not torch.equal(one.arrays["scores"], other.arrays["scores"])


@each
def test_a_saved_search_goes_on_as_if_it_had_not_stopped(name, tmp_path):
    half, whole = Objective(), Objective()
    path = part(name, 37).run(half, start(name)).save(tmp_path / "half.safetensors")
    rest = Objective()
    kept = Artefact.load(path, "schedule")
    on = part(name, 80).run(rest, start(name), resume=kept)
    assert same(on, part(name, 80).run(whole, start(name))) and len(rest.asked) == 80 - 37
    again = Objective()
    assert same(part(name, 37).run(again, start(name), resume=kept), kept) and not again.asked
    with pytest.raises(OrnsteinError, match="the search to go on from had seed=0, this one 5"):
        part(name, 80, seed=5).run(rest, start(name), resume=kept)
    with pytest.raises(OrnsteinError, match="the search to go on from had start="):
        part(name, 80).run(rest, start(name) | {"times": grid(Flow(), STEPS, "karras")}, resume=kept)


@each
def test_a_failed_schedule_is_never_chosen(name):
    first = start(name)["times"]
    found = part(name, 60).run(Objective(lambda c: not torch.equal(c["times"], first)), start(name))
    assert torch.equal(found.arrays["times"], first) and found.arrays["scores"].isinf().sum() >= 20
    found = part(name, 60).run(Objective(lambda c: torch.equal(c["times"], first)), start(name))
    assert not torch.equal(found.arrays["times"], first) and found.settings["score"] < 1
    with pytest.raises(OrnsteinError, match="none of 8 schedules has a score"):
        part(name, 8).run(lambda c: float("nan"), start(name))


@each
def test_progress_is_told_after_each(name):
    told = []
    part(name, 25).run(Objective(), start(name), progress=lambda *now: told.append(now))
    assert [t[:2] for t in told] == [(k, 25) for k in range(1, 26)]
    best = [t[2] for t in told]
    assert best == sorted(best, reverse=True) and best[-1] < best[0]


@each
def test_known_schedules_are_scored_after_the_start(name):
    other = start(name) | {"times": torch.linspace(1, 0, STEPS + 1, dtype=torch.float64) ** 2}
    objective = Objective()
    found = part(name, 2).run(objective, start(name), others=[other])
    assert torch.equal(found.arrays["times"], other["times"]) and len(objective.asked) == 2
    with pytest.raises(OrnsteinError, match="a further start has"):
        part(name, 5).run(objective, start(name), others=[{"times": other["times"], "sizes": other["times"]}])


@each
def test_what_was_searched_for_is_told(name):
    found = part(name, 2).run(Objective(), start(name), made_for={"model": "abc"})
    assert found.made_for == {"model": "abc"} and found.settings["budget"] == 2 and found.settings["seed"] == 0
    assert found.settings["search"] == catalog.find(name, "search").part


@each
def test_senseless_ones_are_refused(name):
    with pytest.raises(OrnsteinError, match="at least 1 evaluation"):
        part(name, 0).run(Objective(), start(name))
    for wrong, words in (({"times": [0.0, 1.0]}, "no times that decrease"), ({}, "no times"),
                         ({"times": [1.0, 0.0], "sizes": [1.0]}, "a schedule of sizes")):  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            part(name, 5).run(Objective(), wrong)


@each
def test_a_space_with_one_schedule_ends(name):
    """One step from noise to data: there is nothing to move but decisions."""
    found = part(name, 30).run(Objective(), {"times": [1.0, 0.0]})
    assert found.settings["evaluations"] == 1 and found.arrays["times"].tolist() == [1.0, 0.0]
