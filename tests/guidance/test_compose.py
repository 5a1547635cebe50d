"""Composition: the equation, what is asked, and the law of independent conditions at every level."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.evidence.guidance.compose import beds, column
from ornstein.guidance.cfg import CFG
from ornstein.guidance.compose import Compose
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
CLOCK = Clock(ids=(0, 1, 2, 3))
ONE, TWO = {"label": torch.tensor([1])}, {"label": torch.tensor([2])}


class Spy:
    def __init__(self, denoiser):
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append((clock.branch, cond["label"].tolist()))
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.4)


def points(dims=6):
    return torch.randn(4, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_the_equation_in_every_kind(process):
    x, t = points(), float(process.time(torch.tensor(0.3, dtype=torch.float64)))
    said = guide(bed(process), Compose(1.5, (ONE, TWO), (2.0, -0.7)))(x, t, LABELS, CLOCK)
    ask = [bed(process)(x, t, c) for c in (None, LABELS, {"label": torch.full((4,), 1)}, {"label": torch.full((4,), 2)})]
    for kind in ("x0", "noise", "velocity", "v", "score"):
        none, a, b, c = (p.get(kind) for p in ask)
        assert torch.allclose(said.get(kind), none + 1.5 * (a - none) + 2.0 * (b - none) - 0.7 * (c - none), atol=1e-9)


def test_alone_it_is_classifier_free_guidance():
    mine, plain = (guide(bed(), rule)(points(), 0.6, LABELS, CLOCK).x0 for rule in (Compose(3.0), CFG(3.0)))
    assert torch.allclose(mine, plain, atol=1e-12)


def test_only_what_has_a_weight_is_asked():
    def asked(rule):
        spy = Spy(bed())
        guide(spy, rule)(points(), 0.5, LABELS, CLOCK)
        return spy.calls

    own = ("cond", [0, 3, 1, 2])
    assert asked(Compose(1.0, (ONE,), (0.0,))) == [own]
    assert asked(Compose(1.0, (ONE, TWO), (0.0, 0.5))) == [own, ("null", [4] * 4), ("concept2", [2] * 4)]
    assert asked(Compose(0.7, (ONE,), (0.3,))) == [own, ("concept1", [1] * 4)]  # the weights sum to 1: no null


@pytest.mark.parametrize("t", [0.05, 0.4, 0.8])
def test_independent_conditions_compose_exactly_at_every_level(t):
    cells, model = beds(0, 0.0)
    x, rows = points(8), torch.tensor([0, 1, 2, 1])
    said = guide(model, Compose(1.0, (column(2),), (1.0,)))(x, t, {"label": rows}, CLOCK).score
    assert torch.allclose(said, cells(x, t, {"label": 3 * rows + 2}).score, atol=1e-9)


@pytest.mark.parametrize("act, words", [
    (lambda: Compose(1.0, (ONE,)), "Give each of them a weight"),
    (lambda: Compose(1.0, (LABELS,), (1.0,)), "one row"),
    (lambda: guide(bed(), Compose(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
