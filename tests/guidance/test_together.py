"""Every guidance on one network beside the rest of the house: batches, multistep solvers, caches, resampling, rewinds.

A new file of guidance/ must be put into TRIALS, strong enough to change something.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, attach
from ornstein.guidance.aggregation import Aggregation, aggregated
from ornstein.guidance.apg import APG
from ornstein.guidance.autoguidance import Autoguidance
from ornstein.guidance.blackscholes import BlackScholes
from ornstein.guidance.cached import CachedCFG
from ornstein.guidance.cfg import CFG
from ornstein.guidance.cfgpp import CFGpp
from ornstein.guidance.cfgzero import CFGZero
from ornstein.guidance.classifier import Classifier
from ornstein.guidance.compose import Compose
from ornstein.guidance.ensemble import Ensemble
from ornstein.guidance.experts import Experts
from ornstein.guidance.invariant import Invariant, Shift
from ornstein.guidance.loss import Loss
from ornstein.guidance.minority import Minority
from ornstein.guidance.perturbed import Perturbed
from ornstein.guidance.rescaled import Rescaled
from ornstein.guidance.stitch import Stitch
from ornstein.guidance.superdiff import SuperDiff
from ornstein.guidance.thresholding import Thresholding

ROWS, SHAPE, STEPS = 8, (1, 8, 8), 6
MULTISTEP = ("dpmpp2m", "deis", "unipc")
CACHES = {"taylorseer": ("interval=1", "interval=2"), "firstblock": ("threshold=0", "threshold=0.2")}  # never skips, skips
OTHER = {"label": torch.tensor([9])}


@cache
def network(seed: int = 3) -> nn.Module:
    """A random DiT in float64 that changes slowly with the time, as a trained one does."""
    torch.manual_seed(seed)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=3,heads=2,classes=10")
    for key, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.02 if key.startswith("time") else 0.12)
    return net.eval().requires_grad_(False).double()


def denoiser(net: nn.Module | None = None) -> Denoiser:
    net = net or network()
    return Denoiser(net, catalog.build("processes", "flow"), null=net.null_condition)


@cache
def other() -> Denoiser:
    return denoiser(network(5))


@cache
def _weights(outputs: int) -> torch.Tensor:
    return torch.randn(64, outputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4


def logits(x: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
    return (x.flatten(1) @ _weights(10)).tanh()


def alike(x: torch.Tensor, cond: Any) -> torch.Tensor:
    return 50 + 40 * logits(x).gather(1, cond["label"].clamp_max(9)[:, None])[:, 0]


def far(x: torch.Tensor, cond: Any) -> torch.Tensor:
    return (x - 0.5).square().flatten(1).sum(1)


@cache
def learned() -> Artefact:
    torch.manual_seed(0)
    net = Shift(64, 10, 8)
    nn.init.normal_(net.out.weight, std=0.5)
    return Artefact("invariant", {f"net.{k}": v for k, v in net.state_dict().items()},
                    {"features": 64, "labels": 10, "width": 8, "groups": 2, "penalty": 1.0}, describe(denoiser()))  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """How one guidance is tried. rules: fresh parts, the last outermost; times: why rows have no times of their own, '' where
    they have; cache: why an attached cache has nothing to answer, '' where it has."""

    rules: Callable[[], tuple]
    times: str = ""
    cache: str = ""
    close: float = 1e-9  # how far a sample alone may be from that of a batch


ONE = "its answer depends on the common end of the step"
TRIALS = {
    "aggregation": Trial(lambda: (Aggregation(both()),), cache="it takes the network's place: attach to the aggregated network"),
    "apg": Trial(lambda: (APG(3.0, threshold=2.0, momentum=-0.5),)),
    "autoguidance": Trial(lambda: (Autoguidance(other(), 2.0),)),
    "autoguidance of one network": Trial(lambda: (Autoguidance(denoiser(), 2.0), CFG(2.0))),
    "blackscholes": Trial(lambda: (BlackScholes(alike, (OTHER,)),)),
    "blackscholes in turn": Trial(lambda: (BlackScholes(None, (OTHER,), "alternate"),)),
    "cached": Trial(lambda: (CachedCFG(3.0, 2, 1.0),)),
    "cfg": Trial(lambda: (CFG(3.0),)),
    "cfg in an interval": Trial(lambda: (CFG(3.0, (0.3, 0.8)),)),
    "cfg from a negative": Trial(lambda: (CFG(3.0, negative=OTHER),)),
    "cfgpp": Trial(lambda: (CFGpp(0.5),), ONE),
    "cfgzero": Trial(lambda: (CFGZero(3.0),)),
    "classifier": Trial(lambda: (Classifier(logits, 2.0),)),
    "classifier through the network": Trial(lambda: (CFG(2.0), Classifier(logits, 2.0, "xt"))),
    "compose": Trial(lambda: (Compose(2.0, (OTHER,), (1.5,)),)),
    "ensemble": Trial(lambda: (Ensemble((other(),), (0.5,)),)),
    "experts": Trial(lambda: (Experts((logits, lambda x: -logits(x)), 2.0),)),
    "invariant": Trial(lambda: (Invariant(learned(), 2.0), CFG(2.0)), close=1e-3),  # its own network is in float32
    "loss": Trial(lambda: (Loss(far, 0.2),)),
    "loss at x0": Trial(lambda: (Loss(far, 0.2, "x0"), CFG(2.0))),
    "minority": Trial(lambda: (Minority(logits, 2.0),)),
    "perturbed": Trial(lambda: (Perturbed(2.0),)),
    "perturbed by skips, under cfg": Trial(lambda: (Perturbed(2.0, "skip"), CFG(2.0))),
    "rescaled": Trial(lambda: (Rescaled(3.0),)),
    "stitch": Trial(lambda: (Stitch((other(),), (0.5,)),)),
    "superdiff": Trial(lambda: (CFG(2.0), SuperDiff((OTHER,)))),
    "superdiff of both": Trial(lambda: (SuperDiff((OTHER,), (other(),), "and", limit=1.0),), ONE),
    "thresholding": Trial(lambda: (CFG(3.0), Thresholding(0.5))),
}  # fmt: skip
CACHED = [n for n, trial in TRIALS.items() if not trial.cache]


@cache
def both() -> nn.Module:
    return aggregated([denoiser(), other()]).double()


def labels(ids) -> dict[str, torch.Tensor]:
    return {"label": torch.tensor([(3 * i + 1) % 10 for i in ids])}


def draw(rules, solver="dpmpp2m", ids=tuple(range(ROWS)), run=None, controllers=(), model=None, plugins=None):
    """Samples with a cache attached to both networks for this long."""
    undo = [attach(net, plugins) for net in (network(), network(5))] if plugins else []
    try:
        return sample(guide(model or denoiser(), *rules), (len(ids), *SHAPE), catalog.build("solvers", solver), STEPS,
                      cond=labels(ids), ids=ids, run=run, controllers=controllers, dtype=torch.float64)  # fmt: skip
    finally:
        for detach in undo:
            detach()


def plugin(name: str, skips: bool = True):
    return catalog.build("acceleration", f"{name}:{CACHES[name][skips]}")


def test_every_guidance_is_tried_here():
    assert {n.split()[0] for n in TRIALS} == {e.name for e in catalog.entries("guidance")}


@pytest.mark.parametrize("name", TRIALS)
def test_a_sample_alone_is_that_of_a_batch_under_multistep_solvers(name):
    plain = draw(())
    for solver in MULTISTEP:
        together = draw(TRIALS[name].rules(), solver)
        assert together.isfinite().all() and not torch.allclose(together, plain, atol=1e-2)
        assert torch.allclose(draw(TRIALS[name].rules(), solver, (5,))[0], together[5], atol=TRIALS[name].close), solver


@pytest.mark.parametrize("name", TRIALS)
def test_rows_at_their_own_times_answer_as_if_alone_or_are_refused(name):
    d = guide(denoiser(), *TRIALS[name].rules())
    x, t = torch.randn(4, *SHAPE, dtype=torch.float64), torch.tensor([0.9, 0.2, 0.5, 0.7], dtype=torch.float64)
    ask = lambda rows: d(x[rows], t[rows], labels(rows), Clock(t=t[rows], ids=tuple(rows))).x0  # noqa: E731
    if TRIALS[name].times:
        with pytest.raises(OrnsteinError, match="one time for the batch"):
            ask([0, 1, 2, 3])
        return
    each = ask([0, 1, 2, 3])
    for i in range(4):
        one = d(x[[i]], t[i], labels([i]), Clock(t=t[i], ids=(i,))).x0
        assert all(torch.allclose(each[i], v[0], atol=TRIALS[name].close) for v in (one, ask([i])))


class Apart:
    """Each call of an evaluation goes to a copy of the network that is attached by itself: no memory can be shared."""

    def __init__(self, base: Denoiser, cache: str) -> None:
        self.base, self.process, self.cache, self.copies, self.place, self.nth = base, base.process, cache, [], None, 0

    def unconditional(self, cond, batch):
        return self.base.unconditional(cond, batch)

    def __call__(self, x, t, cond=None, clock=None):
        place = clock.step, clock.evaluation
        self.nth = self.nth + 1 if place == self.place else 0
        self.place = place
        if self.nth == len(self.copies):
            net = copy.deepcopy(network())
            self.copies.append(denoiser(net))
            attach(net, plugin(self.cache))
        return self.copies[self.nth](x, t, cond, clock)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", CACHED)
def test_caches_keep_the_branches_of_a_guidance_apart(name, cache):
    rules, run = TRIALS[name].rules(), Run()
    plain = draw(rules)
    assert torch.equal(draw(TRIALS[name].rules(), plugins=plugin(cache, False)), plain)
    near = draw(TRIALS[name].rules(), run=run, plugins=plugin(cache))
    facts = run.record.facts[cache]
    assert set(facts) == {b for b in run.record.calls if b != "evaluations"}
    assert run.record.skipped() > 0 and not torch.equal(near, plain) and (near - plain).norm() < 0.5 * plain.norm()
    alone = draw(TRIALS[name].rules(), ids=(5,), plugins=plugin(cache))
    assert torch.allclose(alone[0], near[5], atol=10 * TRIALS[name].close)
    if name not in ONE_NETWORK:
        return
    apart = Apart(denoiser(), cache)
    assert torch.allclose(draw(TRIALS[name].rules(), model=apart), near, atol=1e-9)


# what asks no other network, and the same number of times in each step: there the copies of Apart follow one branch each
ONE_NETWORK = {"apg", "blackscholes", "cfg", "cfg from a negative", "cfgpp", "cfgzero", "classifier", "compose", "experts",
               "loss at x0", "minority", "rescaled", "superdiff", "thresholding"}  # fmt: skip


class Shuffle(Controller):
    """Resamples once: into another order, so that every sample must come out as it would have."""

    order = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])

    def after(self, before, now):
        return now.take(self.order) if now.step == 3 else now


class Again(Controller):
    """Back to the start once, in the middle: what is remembered of the first try must not show."""

    def begin(self, state):
        self.start, self.done = state, False
        return state

    def after(self, before, now):
        if now.step != 4 or self.done:
            return now
        self.done = True
        return self.start


@pytest.mark.parametrize("name", TRIALS)
def test_what_guidance_solver_and_cache_remember_follows_resampling_and_is_dropped_by_rewinding(name):
    close = TRIALS[name].close
    for k, solver in enumerate(MULTISTEP):
        way = {"plugins": plugin(list(CACHES)[k])} if k < 2 and not TRIALS[name].cache else {}
        plain = draw(TRIALS[name].rules(), solver, **way)
        turned = draw(TRIALS[name].rules(), solver, controllers=[Shuffle()], **way)
        assert torch.allclose(turned, plain[Shuffle.order], atol=close), solver
        if k != 1:
            assert torch.allclose(draw(TRIALS[name].rules(), solver, controllers=[Again()], **way), plain, atol=close), solver


@pytest.mark.parametrize("name", sorted({n.split()[0] for n in TRIALS}))
def test_switched_off_it_is_the_cached_plain_run_bit_for_bit(name):
    off = catalog.build("guidance", name, bad=other())
    assert torch.equal(draw((off,), plugins=plugin("taylorseer")), draw((), plugins=plugin("taylorseer")))


def test_prompts_in_turn_share_nothing_under_a_cache():
    """As if each prompt had a network of its own to be cached."""
    rules = TRIALS["blackscholes in turn"].rules
    nets = {"cond": copy.deepcopy(network()), "concept1:cond": copy.deepcopy(network())}
    for net in nets.values():
        attach(net, plugin("taylorseer"))

    class ByPrompt(Apart):
        def __call__(self, x, t, cond=None, clock=None):
            own = torch.equal(cond["label"], labels(range(ROWS))["label"])
            return denoiser(nets["cond" if own else "concept1:cond"])(x, t, cond, clock)

    run = Run()
    near = draw(rules(), run=run, plugins=plugin("taylorseer"))
    assert torch.allclose(draw(rules(), model=ByPrompt(denoiser(), "taylorseer")), near, atol=1e-9)
    assert {b: run.record.calls[b] for b in nets} == {"cond": 3, "concept1:cond": 3}


class Relabelled:
    """A network asked about another label than the run's."""

    def __init__(self, net):
        self.inner, self.process = denoiser(net), denoiser().process

    def __call__(self, x, t, cond=None, clock=None):
        return self.inner(x, t, {"label": torch.full((len(x),), 9)}, clock)


@pytest.mark.parametrize("rule", [lambda d: Autoguidance(d, 2.0), lambda d: Ensemble((d,), (0.5,)), lambda d: SuperDiff((), (d,)),
                                  lambda d: Stitch((d,), table=(0, 1) * 3)],
                         ids=["autoguidance", "ensemble", "superdiff", "stitch"])  # fmt: skip
@pytest.mark.parametrize("cache", CACHES)
def test_further_denoisers_may_be_the_same_network_under_a_cache(rule, cache):
    """As if the second were a copy that is attached by itself."""
    twin = copy.deepcopy(network())
    attach(twin, plugin(cache))
    one, two = (draw((rule(Relabelled(net)),), plugins=plugin(cache)) for net in (network(), twin))
    assert torch.allclose(one, two, atol=1e-9)


class Late(Controller):
    """Begins, or begins again, in the middle."""

    def __init__(self, rewinds):
        self.rewinds, self.done = rewinds, False

    def begin(self, state):
        return state if self.rewinds else replace(state, step=2)

    def after(self, before, now):
        if not self.rewinds or self.done or now.step != 4:
            return now
        self.done = True
        return before


@pytest.mark.parametrize("rewinds", [True, False])
def test_densities_that_were_not_followed_from_the_start_are_refused(rewinds):
    with pytest.raises(OrnsteinError, match="does not know the densities there"):
        draw((SuperDiff((OTHER,)),), controllers=[Late(rewinds)])


def test_perturbation_and_the_invariant_term_work_in_the_second_network_of_a_pipeline_too():
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    for rule in (Perturbed(2.0), Invariant(learned(), 2.0)):
        said = {b: guide(denoiser(), rule)(x, 0.5, labels((0, 1)), Clock(branch=b, ids=(0, 1))).x0
                for b in ("cond", "transformer_2:cond", "transformer_2:cond/uncond", "uncond")}  # fmt: skip
        assert torch.equal(said["cond"], said["transformer_2:cond"]) and not torch.equal(said["cond"], said["uncond"])
        assert torch.equal(said["uncond"], said["transformer_2:cond/uncond"])
