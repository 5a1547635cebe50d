"""Adaptive projected guidance: the equation, its limits, and the momentum's memory."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, running
from ornstein.guidance.apg import APG
from ornstein.guidance.cfg import CFG
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
CLOCK = Clock(ids=(0, 1, 2, 3))


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.4)


def points(seed=0):
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(rule, ids=(0, 1, 2, 3), run=None, controllers=()):
    cond = {"label": LABELS["label"][list(ids)]}
    return sample(guide(bed(), rule), (len(ids), 6), DDIM(), 8, cond=cond, ids=ids, run=run, controllers=controllers,
                  dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_nothing_taken_away_is_classifier_free_guidance(process):
    x, t = points(), float(process.time(torch.tensor(0.3, dtype=torch.float64)))
    mine = guide(bed(process), APG(3.0, eta=1.0))(x, t, LABELS, CLOCK)
    plain = guide(bed(process), CFG(3.0))(x, t, LABELS, CLOCK)
    for kind in ("x0", "noise", "velocity", "v", "score"):
        assert torch.allclose(mine.get(kind), plain.get(kind), atol=1e-10)


def test_the_equation():
    x, t, w, eta, r = points(), 0.6, 4.0, 0.3, 0.5
    good, weak = bed()(x, t, LABELS).x0, bed()(x, t, None).x0
    said = guide(bed(), APG(w, eta, r))(x, t, LABELS, CLOCK).x0
    for i in range(4):
        gap = good[i] - weak[i]
        gap = gap * min(1.0, r / gap.norm().item())
        along = (gap @ good[i]) / (good[i] @ good[i]) * good[i]
        assert torch.allclose(said[i], good[i] + (w - 1) * (gap - along + eta * along), atol=1e-12)


def test_the_change_is_orthogonal_and_bounded():
    x = points()
    good = bed()(x, 0.6, LABELS).x0
    change = guide(bed(), APG(5.0))(x, 0.6, LABELS, CLOCK).x0 - good
    assert torch.allclose((change * good).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-10)
    change = guide(bed(), APG(5.0, threshold=0.1))(x, 0.6, LABELS, CLOCK).x0 - good
    assert (change.norm(dim=1) <= 0.4 + 1e-9).all() and change.norm(dim=1).max() > 0.1


def test_momentum_adds_what_was_before():
    x, y, rule = points(0), points(1), APG(3.0, eta=1.0, momentum=-0.5)
    gap = [bed()(v, t, LABELS).x0 - bed()(v, t, None).x0 for v, t in ((x, 0.6), (y, 0.5))]
    with running(Run()):
        guide(bed(), rule)(x, 0.6, LABELS, CLOCK)
        said = guide(bed(), rule)(y, 0.5, LABELS, Clock(1, ids=(0, 1, 2, 3))).x0
    assert torch.allclose(said, bed()(y, 0.5, LABELS).x0 + 2 * (gap[1] - 0.5 * gap[0]), atol=1e-10)
    outside = guide(bed(), rule)(y, 0.5, LABELS, CLOCK).x0
    assert torch.allclose(outside, bed()(y, 0.5, LABELS).x0 + 2 * gap[1], atol=1e-10)


class Shuffle(Controller):
    order = torch.tensor([3, 1, 0, 2])

    def after(self, before, now):
        return now.take(self.order) if now.step == 4 else now


def test_the_memory_is_of_the_run_of_each_sample_and_follows_it():
    rule, run = APG(3.0, threshold=1.0, momentum=-0.5), Run()
    whole = draw(rule)
    assert torch.equal(draw(rule, run=run), whole) and torch.equal(draw(rule, run=run), whole)
    assert torch.allclose(draw(rule, ids=(2,), run=run)[0], whole[2], atol=1e-12)
    assert torch.allclose(draw(rule, controllers=[Shuffle()]), whole[Shuffle.order], atol=1e-12)
    assert (whole - draw(APG(3.0, threshold=1.0))).abs().max() > 1e-3


def test_it_is_the_update_of_diffusers_from_the_conditional_answer():
    theirs = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    x, buffer, rule = points(), theirs.MomentumBuffer(-0.5), APG(4.0, 0.2, 0.8, -0.5)
    with running(Run()):
        for k, t in enumerate((0.9, 0.7, 0.4)):
            mine = guide(bed(), rule)(x, t, LABELS, Clock(k, ids=(0, 1, 2, 3))).x0
            good, weak = bed()(x, t, LABELS).x0, bed()(x, t, None).x0
            other = theirs.normalized_guidance(good, weak, 3.0, buffer, 0.2, 0.8, use_original_formulation=True)
            assert torch.allclose(mine, other, atol=1e-10)


@pytest.mark.parametrize("act, words", [
    (lambda: APG(2.0, threshold=0.0), "above 0"),
    (lambda: APG(2.0, momentum=-1.0), "between -1 and 1"),
    (lambda: guide(bed(), APG(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
