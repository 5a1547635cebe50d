"""Every steering on one network beside the rest of the house: batches, multistep solvers, guidance, caches, one another.

A new file of steering/ must be put into TRIALS, with a budget, or what it asks for, that changes something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, attach
from ornstein.guidance.cfg import CFG
from ornstein.guidance.loss import Recurrence
from ornstein.steering import boundary, noise_policy, teleport
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.fk import FK
from ornstein.steering.hallucination import Hallucination
from ornstein.steering.path_search import PathSearch
from ornstein.steering.rbf import RBF
from ornstein.steering.svdd import SVDD
from ornstein.steering.w2sd import W2SD
from ornstein.steering.zero_order import ZeroOrder

ROWS, SHAPE, STEPS = 8, (1, 8, 8), 6
MULTISTEP = ("dpmpp2m", "deis", "unipc")
CACHES = {"taylorseer": ("interval=1", "interval=2"), "firstblock": ("threshold=0", "threshold=0.2")}  # never skips, skips


@cache
def network() -> nn.Module:
    torch.manual_seed(3)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=3,heads=2,classes=10")
    for key, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.02 if key.startswith("time") else 0.12)
    return net.eval().requires_grad_(False).double()


def denoiser() -> Denoiser:
    return Denoiser(network(), catalog.build("processes", "flow"), null=network().null_condition)


def first(x: torch.Tensor, cond: Any) -> torch.Tensor:
    return x.flatten(1)[:, :20].mean(1)


@cache
def learned(kind: str) -> Any:
    source = torch.Generator().manual_seed(0)
    data = torch.randn(40, *SHAPE, generator=source, dtype=torch.float64) / 2
    solver = catalog.build("solvers", "ddim")
    if kind == "teleport":
        return teleport.fit(data, labels=torch.arange(40) % 10)
    if kind == "boundary":
        return boundary.fit(denoiser(), data[:2], solver, STEPS, cond=labels((0, 1)), candidates=3)
    settings = noise_policy.Settings(2, 3, rate=0.3)
    return noise_policy.fit(denoiser(), SHAPE, solver, STEPS, first, labels(range(ROWS)), settings=settings)


@dataclass(frozen=True)
class Trial:
    """part: fresh and strong; returns: it goes back to earlier steps; refused: solvers that remember more than one step."""

    part: Callable[[], Any]
    returns: bool = False
    refused: tuple[str, ...] = ()


TRIALS = {
    "best_of_n": Trial(lambda: BestOfN(first, 3)),
    "boundary": Trial(lambda: boundary.Boundary(learned("boundary"))),
    "fk": Trial(lambda: FK(first, 3)),
    "hallucination": Trial(lambda: Hallucination(3, (0.3, 1.0))),
    "noise_policy": Trial(lambda: noise_policy.NoisePolicy(learned("noise_policy"))),
    "path_search": Trial(lambda: PathSearch(first, 4), True),
    "rbf": Trial(lambda: RBF(first, 3), True, ("deis", "unipc")),
    "svdd": Trial(lambda: SVDD(first, 3)),
    "teleport": Trial(lambda: teleport.Teleport(learned("teleport"), 2)),
    "w2sd": Trial(lambda: W2SD(denoiser()), True),
    "zero_order": Trial(lambda: ZeroOrder(first, 2, 2), True),
}


def labels(ids) -> dict[str, torch.Tensor]:
    return {"label": torch.tensor([(3 * i + 1) % 10 for i in ids])}


def draw(*controllers, solver="dpmpp2m", ids=tuple(range(ROWS)), run=None, plugins=None, scale=2.0):
    detach = attach(network(), plugins) if plugins else lambda: None
    try:
        return sample(guide(denoiser(), CFG(scale)), (len(ids), *SHAPE), catalog.build("solvers", solver), STEPS,
                      cond=labels(ids), ids=ids, run=run, controllers=controllers,
                      dtype=torch.float64)  # fmt: skip
    finally:
        detach()


def plugin(name: str, skips: bool = True):
    return catalog.build("acceleration", f"{name}:{CACHES[name][skips]}")


def test_every_steering_is_tried_here():
    assert set(TRIALS) == {e.name for e in catalog.entries("steering")}


@pytest.mark.parametrize("name", TRIALS)
def test_a_sample_alone_is_that_of_a_batch_under_guidance_and_multistep_solvers(name):
    for solver in (*MULTISTEP, "ddim:eta=1"):
        if solver in TRIALS[name].refused:
            with pytest.raises(OrnsteinError, match="such as ddim:eta=1"):
                draw(TRIALS[name].part(), solver=solver)
            continue
        plain, together = draw(solver=solver), draw(TRIALS[name].part(), solver=solver)
        assert together.shape == plain.shape and not torch.allclose(together, plain, atol=1e-2)
        assert torch.allclose(draw(TRIALS[name].part(), solver=solver, ids=(5,))[0], together[5], atol=1e-9), solver


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", TRIALS)
def test_caches_follow_particles_and_forget_at_rewinds(name, cache):
    plain, run = draw(TRIALS[name].part()), Run()
    assert torch.equal(draw(TRIALS[name].part(), plugins=plugin(cache, False)), plain)
    near = draw(TRIALS[name].part(), plugins=plugin(cache), run=run)
    assert near.isfinite().all() and (run.record.skipped() > 0) == ((name, cache) not in NO_SKIPS)
    for i in (0, 5):
        alone = draw(TRIALS[name].part(), plugins=plugin(cache), ids=(i,))
        assert torch.allclose(alone[0], near[i], atol=1e-8), f"row {i}"


# what goes back so often that a cache is never warm
NO_SKIPS = {("rbf", "taylorseer"), ("rbf", "firstblock"), ("path_search", "taylorseer"), ("w2sd", "taylorseer")}


class Seen(Controller):
    """The steps that the controllers before it went to, and what the solver's answer was there."""

    def __init__(self):
        self.steps, self.states = [], []

    def after(self, before, now):
        self.steps.append((before.step, now.step))
        self.states.append(now)
        return now


@pytest.mark.parametrize("name", [n for n in TRIALS if TRIALS[n].returns])
def test_a_controller_listed_after_sees_where_the_run_stands(name):
    seen, run = Seen(), Run()
    draw(TRIALS[name].part(), seen, solver="ddim:eta=1", run=run)
    assert any(now <= before for before, now in seen.steps), "it should go back"
    for (_, stood), (began, _) in zip(seen.steps, seen.steps[1:]):
        assert began == stood  # what was handed on is what the next step begins from
    for state in seen.states:
        assert len(state.x) == len(state.ids) == len(state.noise.keys) == len(state.cond["label"])
    assert len(seen.steps) == run.record.calls["evaluations"] and seen.steps[-1][1] == STEPS


WATCHING = {"fk": lambda: FK(first, 3), "svdd": lambda: SVDD(first, 3), "hallucination": lambda: Hallucination(1, (0.0, 1.0))}


@pytest.mark.parametrize("back", ["w2sd", "recurrence"])
@pytest.mark.parametrize("name", WATCHING)
def test_what_judges_steps_is_not_misled_by_what_goes_back(name, back):
    """A step that was taken back is no step: choices and measures are as many as steps are."""
    goes = {"w2sd": lambda: W2SD(denoiser()), "recurrence": lambda: Recurrence(2)}[back]
    plain, run = Run(), Run()
    draw(WATCHING[name](), run=plain, solver="ddim")
    draw(goes(), WATCHING[name](), run=run, solver="ddim")
    mine, theirs = run.record.facts[name], plain.record.facts[name]
    for key in ("ess", "values", "tried"):
        assert key not in mine or mine[key].shape == theirs[key].shape
    assert mine.get("calls") == theirs.get("calls")


def test_a_variance_counts_each_step_once_whoever_goes_back():
    seen, run = Seen(), Run()
    draw(W2SD(denoiser()), Hallucination(1, (0.0, 1.0)), seen, solver="ddim", run=run)
    said = torch.stack([s.said.x0 for s, (before, now) in zip(seen.states, seen.steps) if now > before])
    assert torch.allclose(run.record.facts["hallucination"]["variance"], said.var(0, correction=0).flatten(1).mean(1), atol=1e-9)


def test_recurrence_repeats_each_step_also_where_another_controller_goes_back():
    run = Run()
    draw(W2SD(denoiser()), Recurrence(2), run=run, solver="ddim")
    # every step but the last twice for each of two repetitions; reflecting belongs to a step, not to a repetition
    assert run.record.facts["w2sd"]["reflected"] == 2 * (STEPS - 1)
    assert run.record.calls["evaluations"] == 4 * (STEPS - 1) + 2


def test_forced_budgets_count_no_step_that_was_taken_back():
    run = Run()
    draw(W2SD(denoiser()), RBF(first, 3), run=run, solver="ddim")
    used = run.record.facts["rbf"]["used"]
    assert used.shape == (ROWS, STEPS) and int(used.sum(1).max()) <= 3 * STEPS and run.record.facts["w2sd"]["reflected"] > 0


def test_reflection_begins_anew_in_each_round_of_a_search():
    run, early = Run(), (0.9, 1.0)  # the first step alone reflects, so that it is also the last that did
    draw(W2SD(denoiser(), early), ZeroOrder(first, 2, 3), run=run, solver="ddim")
    assert run.record.facts["w2sd"]["reflected"] == 3


@pytest.mark.parametrize("pair", [("best_of_n", "fk"), ("svdd", "zero_order"), ("hallucination", "path_search")])
def test_two_searches_in_one_run_are_refused(pair):
    with pytest.raises(OrnsteinError, match="two searches in one run"):
        draw(*(TRIALS[n].part() for n in pair))


def test_a_search_below_the_prior_is_refused_and_one_before_the_jump_works():
    for name in ("best_of_n", "fk", "svdd", "hallucination", "path_search", "zero_order"):
        with pytest.raises(OrnsteinError, match="before teleporting"):
            draw(TRIALS["teleport"].part(), TRIALS[name].part())
    assert draw(BestOfN(first, 3), TRIALS["teleport"].part()).shape == (ROWS, *SHAPE)


def test_what_a_search_drops_is_dropped_from_the_facts_of_others_too():
    for name in ("best_of_n", "fk", "svdd", "path_search", "zero_order"):
        run = Run()
        draw(TRIALS[name].part(), Hallucination(1, (0.3, 1.0)), run=run)
        assert len(run.record.facts["hallucination"]["variance"]) == ROWS, name


def test_reflection_after_what_chooses_rows_is_refused():
    with pytest.raises(OrnsteinError, match="List W2SD before it"):
        draw(FK(first, 3), W2SD(denoiser()))
