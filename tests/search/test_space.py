"""What searches move: the ladder of times, decisions, and blocks at equal cost; and what their own artefacts are good for."""

from __future__ import annotations

import random

import pytest
import torch

from ornstein.acceleration.skip import Skip
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.processes.vp import VP
from ornstein.search.autodiffusion import AutoDiffusion
from ornstein.search.layers.ledger import Ledger
from ornstein.search.layers.space import Space
from ornstein.search.s3 import S3, _predict
from ornstein.testbeds import Mixture


def space(rule="karras", steps=6, **more):
    return Space({"times": grid(VP(), steps, rule)} | more, (2, 3, 2, 2, 2), 20)


@pytest.mark.parametrize("rule", ["uniform", "karras"])
def test_a_place_on_the_ladder_is_a_step_of_the_start(rule):
    one = space(rule)
    assert [one.place(t) for t in one.start["times"].tolist()] == pytest.approx(list(range(7)))
    half = (one.start["times"][2] + one.start["times"][3]) / 2
    assert one.place(float(half)) == pytest.approx(2.5)


def test_a_near_mutant_keeps_the_order_and_moves_little():
    one, source = space(), random.Random(0)
    wide = [one.mutate(one.start, 0.3, source, near=False)["times"] for _ in range(50)]
    near = [one.mutate(one.start, 0.3, source)["times"] for _ in range(50)]
    places = lambda many: torch.tensor([[one.place(t) for t in v.tolist()] for v in many])  # noqa: E731
    far = (places(near) - torch.arange(7)).abs().max(0)[0]
    assert bool((far <= 2).all()) and far.max() > 0.5, "each between its neighbours, which move too"
    assert (places(wide) - torch.arange(7)).abs().max() > 2
    assert not torch.equal(near[0], near[1])


def test_a_near_time_is_strictly_between_its_neighbours():
    one, source = space("uniform"), random.Random(3)
    times = one.start["times"].tolist()
    drawn = [one._near(times, 2, source) for _ in range(300)]
    assert times[1] > max(drawn) and min(drawn) > times[3] and len(set(drawn)) > 30
    close = [1.0, 0.99, 0.989, 0.988, 0.5, 0.2, 0.0]
    assert one._near(close, 2, source) == 0.989, "no rung in between: it stays"


def test_the_ledger_asks_once():
    asked = []
    ledger = Ledger(lambda c: asked.append(c) or 1.0, 3)
    a, b = {"times": torch.tensor([1.0, 0.0])}, {"times": torch.tensor([1.0, 0.5])}
    assert [ledger.ask(c) for c in (a, a, b, a)] == [True, False, True, False] and len(asked) == 2
    assert ledger.fresh(lambda: b) is None and not ledger.spent


def test_evolution_breeds_from_the_best():
    """With as many evaluations it finds better times than one generation does."""
    wish = torch.linspace(1, 0, 9, dtype=torch.float64) ** 2
    error = lambda c: float((c["times"] - wish).abs().max())  # noqa: E731
    first = {"times": torch.linspace(1, 0, 9, dtype=torch.float64)}
    scores = [[AutoDiffusion(200, seed, population=n).run(error, first).settings["score"] for n in (20, 200)] for seed in range(4)]
    assert all(many < 0.8 * one for many, one in scores), scores


def test_more_steps_are_paid_for_with_blocks():
    one, source = space(blocks=torch.zeros(6, 5, dtype=torch.bool)), random.Random(1)
    long = one.stretch(one.start, 8, source)
    assert len(long["times"]) == 9 and long["blocks"].shape == (8, 5) and int((~long["blocks"]).sum()) == 30
    assert set(one.start["times"].tolist()) <= set(long["times"].tolist())
    short = one.stretch(long, 6, source)
    assert len(short["times"]) == 7 and int((~short["blocks"]).sum()) == 30
    mutant, child = one.mutate(long, 0.5, source), one.cross(long, one.mutate(long, 0.5, source), source)
    assert all(int((~c["blocks"]).sum()) == 30 for c in (mutant, child))
    for _ in range(20):
        child = one.cross(one.mutate(long, 0.5, source), one.mutate(long, 0.5, source), source)
        assert int((~child["blocks"]).sum()) == 30
    assert one.cross(long, one.start, source) is long


def test_a_child_has_each_step_of_one_of_its_parents():
    one, source = space("uniform", decisions=torch.zeros(6, 5, dtype=torch.int64)), random.Random(2)
    a, b = one.draw(source), one.draw(source)
    child = one.cross(a, b, source)
    for k in range(6):
        assert child["decisions"][k].tolist() in (a["decisions"][k].tolist(), b["decisions"][k].tolist())
    assert sum(t in {*a["times"].tolist(), *b["times"].tolist()} for t in child["times"].tolist()) >= 5


def test_the_predictor_ranks_what_it_has_not_seen():
    source = torch.Generator().manual_seed(0)
    x, y = (torch.rand(n, 4, generator=source, dtype=torch.float64) for n in (60, 40))
    value = lambda v: (v[:, 0] - 0.3).square() + v[:, 1]  # noqa: E731
    guess = _predict(x, value(x).argsort().argsort().double() / 60, y, 0.1)
    assert torch.corrcoef(torch.stack([guess, value(y)]))[0, 1] > 0.95


def test_a_found_schedule_is_walked_on_by_the_solver(tmp_path):
    """The whole way: search, save, and the solver from a text, as good as the search said."""
    mixture = Mixture.random(VP(), dims=4, components=3)
    start = torch.randn(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = mixture.exact(start, steps=100)

    def error(found):
        solver = catalog.build("solvers", {"name": "usf", "schedule": Artefact("schedule", found)})
        return float((sample(mixture, start, solver, rule=found["times"], dtype=torch.float64) - truth).square().mean())

    first = {"times": grid(VP(), 5), "decisions": [[0, 1, 0, 0, 0]] * 5}
    found = S3(60, pool=20).run(error, first, made_for={"process": repr(mixture.process)})
    path = found.save(tmp_path / "found.safetensors")
    solver = catalog.build("solvers", f"usf:schedule='{path}'")
    x = sample(mixture, start, solver, rule=found.arrays["times"].tolist(), dtype=torch.float64)
    plain = sample(mixture, start, catalog.build("solvers", "dpmpp2m"), 5, dtype=torch.float64)
    assert float((x - truth).square().mean()) == pytest.approx(found.settings["score"], rel=1e-9)
    assert found.settings["score"] < 0.7 * float((plain - truth).square().mean())
    with pytest.raises(OrnsteinError, match="step 1 begins at t ="):
        sample(mixture, start, solver, rule="quadratic", steps=5)
    with pytest.raises(OrnsteinError, match="for 5 steps, and this run has 7"):
        sample(mixture, start, solver, 7)
    with pytest.raises(OrnsteinError, match="calibrated for process"):
        sample(Mixture.random(VP("linear"), 4, 3), start, solver, rule=found.arrays["times"].tolist())


def test_blocks_that_cost_nothing_are_left_out():
    """Where more steps help and blocks do not, the joint search finds both; the plugin reads what it found."""

    def error(found):
        return 1 / (len(found["times"]) - 1) + found["blocks"][:, 0].float().mean().item()

    found = AutoDiffusion(300, population=20).run(error, {"times": grid(VP(), 6), "blocks": torch.zeros(6, 5)})
    steps = len(found.arrays["times"]) - 1
    assert steps > 6 and not found.arrays["blocks"][:, 0].any() and int((~found.arrays["blocks"]).sum()) <= 30
    assert len(Skip(schedule=found).blocks) == steps
