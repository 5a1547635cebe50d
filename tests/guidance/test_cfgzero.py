"""CFG-Zero*: the fitted scale, the standing still, and both on every process."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.cfg import CFG
from ornstein.guidance.cfgzero import CFGZero
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
CLOCK = Clock(ids=(0, 1, 2, 3))


class Spy:
    def __init__(self, denoiser):
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append(float(t) if not torch.is_tensor(t) or t.ndim == 0 else t.tolist())
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.4)


def points():
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_without_the_fit_it_is_classifier_free_guidance(process):
    x, t = points(), float(process.time(torch.tensor(0.3, dtype=torch.float64)))
    mine = guide(bed(process), CFGZero(3.0, fit=False))(x, t, LABELS, CLOCK)
    assert torch.allclose(mine.x0, guide(bed(process), CFG(3.0))(x, t, LABELS, CLOCK).x0, atol=1e-10)


def test_it_is_the_fitted_scale_of_diffusers_on_the_linear_flow():
    module = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    theirs = module.ClassifierFreeZeroStarGuidance(guidance_scale=5.0, zero_init_steps=0)
    theirs._count_prepared, theirs._step = 2, 3
    x = points()
    good, weak = bed()(x, 0.6, LABELS).velocity, bed()(x, 0.6, None).velocity
    other = theirs.forward(good, weak).pred.double()
    mine = guide(bed(), CFGZero(5.0))(x, 0.6, LABELS, CLOCK).velocity
    assert torch.allclose(mine, other, atol=1e-5)  # its scale is computed in float32
    assert (mine - guide(bed(), CFG(5.0))(x, 0.6, LABELS, CLOCK).velocity).abs().max() > 1e-2


def test_one_rule_on_every_process():
    """The same y = x/(a+s) at the same flow time gives the same x0."""
    y, answers = points(), []
    for process in (Flow(), VP(), EDM()):
        t = float(process.time(torch.tensor(0.7, dtype=torch.float64)))
        L = process.at(t, y)
        answers.append(guide(bed(process), CFGZero(4.0, 0.04))(y * (L.a + L.s), t, LABELS, CLOCK).x0)
    assert torch.allclose(answers[0], answers[1], atol=1e-6) and torch.allclose(answers[0], answers[2], atol=1e-6)


def test_it_stands_still_without_a_call():
    spy = Spy(bed())
    x = sample(guide(spy, CFGZero(3.0, 0.25)), (4, 6), DDIM(), 10, cond=LABELS)
    assert len(spy.calls) == 14 and max(spy.calls) == pytest.approx(0.7)  # not at 1.0, 0.9 and 0.8
    late = sample(guide(bed(), CFGZero(3.0)), (4, 6), DDIM(), 10, cond=LABELS, rule=[0.7 - k / 10 for k in range(8)])
    assert torch.allclose(x, late, atol=1e-5)  # the noise of time 1 taken for a sample at 0.7
    assert sample(guide(bed(), CFGZero(1.0, 0.25)), (4, 6), DDIM(), 10, cond=LABELS).equal(
        sample(bed(), (4, 6), DDIM(), 10, cond=LABELS))  # fmt: skip


def test_rows_stand_still_by_their_own_time():
    x, t = points(), torch.tensor([0.99, 0.5, 0.97, 0.2], dtype=torch.float64)
    rule = CFGZero(3.0, 0.04)
    said = guide(bed(), rule)(x, t, LABELS, CLOCK)
    assert torch.equal(said.x0[[0, 2]], x[[0, 2]]) and said.velocity[[0, 2]].abs().max() < 1e-9
    for i in range(4):
        one = guide(bed(), rule)(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=(i,))).x0
        assert torch.allclose(said.x0[i : i + 1], one, atol=1e-12)


@pytest.mark.parametrize("act, words", [
    (lambda: CFGZero(2.0, 1.0), "below 1"),
    (lambda: guide(bed(), CFGZero(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
