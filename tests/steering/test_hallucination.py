"""The meter is the variance of the predictions over its window, follows its rows, and chooses the calmest trajectory."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.steering.hallucination import Hallucination
from ornstein.testbeds import Mixture

WALK = catalog.build("solvers", "ddpm")


def bed() -> Mixture:
    return Mixture.random(catalog.build("processes", "flow"), dims=3, components=4)


class Watch(Controller):
    def __init__(self):
        self.said = []

    def on_prediction(self, clock, x, prediction):
        self.said.append(prediction.x0)
        return prediction


def test_it_is_the_variance_over_the_window():
    watch, run = Watch(), Run()
    x = sample(bed(), (5, 3), WALK, 10, controllers=[watch, Hallucination(window=(0.4, 0.8))], run=run, seed=3)
    assert torch.equal(x, sample(bed(), (5, 3), WALK, 10, seed=3))
    want = torch.stack(watch.said[4:8]).double().var(0, unbiased=False).mean(1)
    fact = run.record.facts["hallucination"]
    assert torch.allclose(fact["variance"], want, rtol=1e-4)
    assert not fact["flagged"].any()
    middle = 1.001 * want.median().item()  # between two of them
    sample(bed(), (5, 3), WALK, 10, controllers=[Hallucination(window=(0.4, 0.8), threshold=middle)], run=run, seed=3)
    assert run.record.facts["hallucination"]["flagged"].tolist() == (want > middle).tolist()


def test_the_calmest_trajectory_is_kept():
    run = Run()
    sample(bed(), (4, 3), WALK, 10, controllers=[Hallucination(5, (0.2, 1.0))], run=run)
    fact = run.record.facts["hallucination"]
    assert fact["tried"].shape == (4, 5) and torch.equal(fact["variance"], fact["tried"].min(1).values)
    assert (fact["tried"].max(1).values > 1.01 * fact["variance"]).all()


def test_the_sums_follow_rows_that_another_controller_chooses():
    class Turn(Controller):
        def after(self, before, now):
            return now.take(torch.tensor([2, 0, 1])) if now.step == 9 else now

    part, facts = Hallucination(window=(0.2, 0.8)), []
    for others in ([], [Turn()]):
        run = Run()
        sample(bed(), (3, 3), catalog.build("solvers", "ddim"), 10, controllers=[*others, part], run=run)
        facts.append(run.record.facts["hallucination"]["variance"])
    assert torch.allclose(facts[1], facts[0][[2, 0, 1]], rtol=1e-5)


def test_windows_that_say_nothing_are_refused():
    with pytest.raises(OrnsteinError, match="is no stretch of the steps"):
        Hallucination(window=(0.9, 0.2))
    with pytest.raises(OrnsteinError, match="a run of 1 steps has no variance to go by"):
        sample(bed(), (1, 3), WALK, 1, controllers=[Hallucination()])


def test_a_narrow_window_holds_two_steps():
    watch, run = Watch(), Run()
    sample(bed(), (5, 3), WALK, 10, controllers=[watch, Hallucination(window=(0.95, 1.0))], run=run)
    want = torch.stack(watch.said[8:]).double().var(0, unbiased=False).mean(1)
    assert torch.allclose(run.record.facts["hallucination"]["variance"], want, rtol=1e-4)
