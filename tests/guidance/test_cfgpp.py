"""CFG++ against the publication's own step, on every process, with and without fresh noise."""

import pytest
import torch

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.guidance.cfg import CFG
from ornstein.guidance.cfgpp import CFGpp
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.euler_ancestral import EulerAncestral
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

LABELS, DOUBLE = {"label": torch.tensor([0, 3, 1, 2])}, torch.float64


def published(bed, times, strength, eta=0.0):
    """x0 of the guided, noise of the unconditional answer, step by step."""
    source, process = NoiseSource.of(0, range(4)), bed.process
    x = process.prior(source.draw(-1, torch.empty(4, 6, dtype=DOUBLE)))
    for k, (t, s) in enumerate(zip(times[:-1], times[1:])):
        now, to = process.at(t, x), process.at(s, x)
        cond, free = bed(x, t, LABELS), bed(x, t, None)
        fresh = eta * to.s * (1 - (now.a * to.s / (to.a * now.s)) ** 2).clamp_min(0).sqrt()
        x0 = free.x0 + strength * (cond.x0 - free.x0)
        x = to.a * x0 + (to.s**2 - fresh**2).clamp_min(0).sqrt() * free.noise
        x = x + fresh * source.draw(k, x) if eta else x
    return x


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("process,rule", [(Flow(), "uniform"), (VP(), "quadratic"), (EDM(), "karras")])
def test_it_is_the_published_step(process, rule, eta):
    bed = Mixture.random(process, dims=6, components=4, std=0.4)
    times = grid(process, 7, rule)
    for given in (rule, times.tolist()):
        denoiser = guide(bed, CFGpp(0.6, given, eta))
        x = sample(denoiser, (4, 6), DDIM(eta), 7, cond=LABELS, rule=rule, dtype=DOUBLE)
        assert torch.allclose(x, published(bed, times, 0.6, eta), atol=1e-8)
    if eta in (0.0, 1.0):
        x = sample(denoiser, (4, 6), EulerAncestral(eta), 7, cond=LABELS, rule=rule, dtype=DOUBLE)
        assert torch.allclose(x, published(bed, times, 0.6, eta), atol=1e-8)


def test_strength_0_is_unconditional_and_one_row_is_as_in_company():
    bed = Mixture.random(Flow(), dims=6, components=4, std=0.4)
    free = sample(bed, (4, 6), DDIM(), 5, dtype=DOUBLE)
    assert torch.allclose(sample(guide(bed, CFGpp(0.0)), (4, 6), DDIM(), 5, cond=LABELS, dtype=DOUBLE), free, atol=1e-12)
    whole = sample(guide(bed, CFGpp(0.5)), (4, 6), DDIM(), 5, cond=LABELS, dtype=DOUBLE)
    one = sample(guide(bed, CFGpp(0.5)), (1, 6), DDIM(), 5, cond={"label": torch.tensor([1])}, ids=[2], dtype=DOUBLE)
    assert torch.allclose(whole[2:3], one, atol=1e-12)


def test_growth():
    """1 / (1 - sigma_s / sigma_t), unbounded as steps grow in number, and 1 in the last step."""
    bed, x = Mixture.random(Flow(), dims=6, components=4), torch.zeros(1, 6)
    assert CFGpp(1.0).growth(bed, x, 0.5, Clock(5, 0, 10)) == pytest.approx(1 / (1 - (0.4 / 0.6) / 1.0))
    assert CFGpp(1.0).growth(bed, x, 0.1, Clock(9, 0, 10)) == 1 and CFGpp(1.0).growth(bed, x, 1.0, Clock(0, 0, 10)) == 1
    assert CFGpp(1.0).growth(bed, x, 0.5, Clock(500, 0, 1000)) > 200


@pytest.mark.parametrize("act,words", [
    (lambda bed: CFGpp(-1.0), "strength of 0 or more"), (lambda bed: CFGpp(0.5, eta=2.0), "from 0 to 1"),
    (lambda bed: sample(guide(bed, CFGpp(0.5)), (4, 6), DDIM(), 5, cond=LABELS, rule="quadratic"), "the run's own grid"),
    (lambda bed: sample(guide(bed, CFGpp(0.5)), (4, 6), Heun(), 5, cond=LABELS), "one call per step"),
    (lambda bed: guide(bed, CFGpp(0.5))(torch.zeros(4, 6), torch.full((4,), 0.5), LABELS, Clock()), "one time for the batch"),
    (lambda bed: sample(guide(bed, CFGpp(0.5)), (4, 6), DDIM(), 5), "no condition")])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act(Mixture.random(Flow(), dims=6, components=4, std=0.4))


def test_branches_differ_from_those_of_a_guidance_around_it():
    bed, seen = Mixture.random(Flow(), dims=6, components=4, std=0.4), []

    class Spy:
        process, unconditional = bed.process, bed.unconditional

        def __call__(self, x, t, cond=None, clock=None):
            seen.append(clock.branch)
            return bed(x, t, cond, clock)

    sample(guide(Spy(), CFGpp(0.5), CFG(2.0)), (4, 6), DDIM(), 1, cond=LABELS)
    assert len(set(seen)) == len(seen) == 4
