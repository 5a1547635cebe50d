"""At each step all candidates come from one winner, drawn by its soft value, which was judged before."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.svdd import SVDD
from ornstein.testbeds import Mixture, Tokens

WALK = catalog.build("solvers", "ddim:eta=1")


def bed(process="flow", **kw) -> Mixture:
    return Mixture.random(catalog.build("processes", process), dims=2, components=5, **kw)


def first(x, cond):
    return x[:, 0]


class Watch(Controller):
    def __init__(self):
        self.seen = []

    def after(self, before, now):
        self.seen.append(now)
        return now


@pytest.mark.parametrize("solver", ["ddim", "ddim:eta=1", "interpolant_sde", "dpmpp2m"])
def test_all_candidates_come_from_the_best(solver):
    """`said` follows the rows: after a choice all candidates have one parent, of the largest predicted reward."""
    before, after = Watch(), Watch()
    sample(bed(), (3, 2), catalog.build("solvers", solver), 6, controllers=[before, SVDD(first, 5), after], dtype=torch.float64)
    for k in range(5):
        found, kept = before.seen[k].said.x0.reshape(3, 5, 2), after.seen[k].said.x0.reshape(3, 5, 2)
        best = found[torch.arange(3), found[:, :, 0].argmax(1)]
        assert torch.equal(kept, best[:, None].expand(-1, 5, -1))
        assert len({tuple(row) for row in after.seen[k].x.tolist()}) == 15
    assert torch.equal(before.seen[5].x, after.seen[5].x)  # the last step's are judged as they are


def test_winners_are_drawn_by_their_soft_value():
    """At the first step of VP, of two candidates: the chance is exp(v/alpha) / sum, over many samples."""
    seen, alpha = Watch(), 0.2
    kept = Watch()
    part = SVDD(first, 2, alpha, window=(0.5, 1))
    sample(bed(), (400, 2), WALK, 4, controllers=[seen, part, kept], dtype=torch.float64)
    v = seen.seen[2].said.x0[:, 0].reshape(400, 2)
    chance = (v / alpha).softmax(1)[:, 0]
    won = torch.isclose(kept.seen[2].said.x0[:, 0].reshape(400, 2)[:, 0], v[:, 0]).double()
    assert torch.allclose(kept.seen[1].x, seen.seen[1].x)  # before the window nothing is chosen
    spread = (chance * (1 - chance)).sum().sqrt()
    assert abs(float(won.sum() - chance.sum())) < 3 * float(spread) and abs(float(((won - chance) * (chance - 0.5)).mean())) < 0.03
    assert float(spread) > 5


def test_facts_tell_values_rewards_and_calls():
    run = Run()
    x = sample(bed(), (3, 2), WALK, 6, controllers=[SVDD(first, 5, 0.5)], run=run)
    fact = run.record.facts["svdd"]
    assert fact["calls"] == 5 * 6 and fact["values"].shape == fact["ess"].shape == (3, 5) and run.record.calls["evaluations"] == 6
    assert (fact["ess"] >= 1).all() and (fact["ess"] <= 5 + 1e-9).all() and float(fact["ess"].min()) < 4.9
    assert torch.equal(fact["rewards"].gather(1, fact["chosen"][:, None])[:, 0].float(), x[:, 0])


def test_a_rare_mode_is_found_where_the_best_of_as_many_misses_it():
    means = torch.tensor([[-1.0, 0], [0, 1], [0, -1], [3.0, 0]])
    one = Mixture(means, torch.tensor(0.2), catalog.build("processes", "flow"), torch.tensor([0.33, 0.33, 0.33, 0.01]))
    hit = {}
    for name, part in (("svdd", SVDD(first, 6)), ("best", BestOfN(first, 6))):
        hit[name] = float((sample(one, (60, 2), WALK, 16, controllers=[part])[:, 0] > 2).double().mean())
    assert hit["svdd"] > 0.7 > 0.25 > hit["best"], hit


def test_tokens_are_decoded_by_value():
    data = torch.tensor([[0, 0, 1, 2], [1, 0, 1, 2], [2, 2, 2, 0], [2, 1, 0, 0]])
    one = Tokens(data, catalog.build("processes", "masked:tokens=3"), torch.tensor([0.4, 0.3, 0.2, 0.1]))
    last = lambda x, c: (x[:, 3] == 0).double()  # noqa: E731
    x = sample(one, torch.full((80, 4), 3), catalog.build("solvers", "unmask"), 16, controllers=[SVDD(last, 4)])
    plain = sample(one, torch.full((80, 4), 3), catalog.build("solvers", "unmask"), 16)
    assert last(x, None).mean() > 0.85 > 0.45 > last(plain, None).mean() and (one.which(x) < 4).double().mean() > 0.75
    assert (one.which(x) == 2).any() and (one.which(x) == 3).any()


def test_settings_that_mean_nothing_are_refused():
    for bad, words in (({"alpha": -1.0}, "is negative"), ({"window": (0.5, 0.5)}, "no stretch")):
        with pytest.raises(OrnsteinError, match=words):
            SVDD(first, 4, **bad)
