"""What every guidance keeps to, over all files of the room; and where CFG and autoguidance say more."""

import inspect
from dataclasses import fields

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.autoguidance import Autoguidance
from ornstein.guidance.cfg import CFG
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("guidance")]
# what has a strength; what chooses among denoisers has none, and says in its own test what these tests say here
SCALED = [n for n in NAMES if "scale" in {f.name for f in fields(catalog.load("guidance", n))}]
LABELS = {"label": torch.tensor([0, 3, 1, 2])}


class Spy:
    """A denoiser that writes down what it was asked."""

    def __init__(self, denoiser, name="good"):
        self.denoiser, self.name, self.calls, self.process = denoiser, name, [], denoiser.process

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append((self.name, clock.branch, clock.ids, None if cond is None else cond["label"].tolist()))
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)


def bed(process=None, std=0.4):
    return Mixture.random(process or Flow(), dims=6, components=4, std=std)


def part(name, process=None, **settings):
    return catalog.build("guidance", {"name": name, **settings}, bad=bed(process, 0.8))


@pytest.mark.parametrize("name", NAMES)
def test_neutral_is_bit_exact_and_costs_one_call(name):
    for solver in (DDIM(), DDIM(eta=1.0), DPMpp2M()):
        plain = sample(bed(), (4, 6), solver, 5, cond=LABELS)
        spy = Spy(bed())
        assert torch.equal(sample(guide(spy, part(name)), (4, 6), solver, 5, cond=LABELS), plain)
        assert len(spy.calls) == 5 and {c[1] for c in spy.calls} == {"cond"}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_strength_matters_and_stays_finite(name, process):
    plain = sample(bed(process), (4, 6), DPMpp2M(), 8, cond=LABELS, rule="karras")
    strong = sample(
        guide(bed(process), part(name, process, scale=2.0)), (4, 6), DPMpp2M(), 8, cond=LABELS, rule="karras"
    )
    assert bool(strong.isfinite().all()) and (strong - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", SCALED)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    for solver in (DDIM(eta=0.5), DPMpp2M()):
        denoiser = guide(bed(), part(name, scale=2.5))
        together = sample(denoiser, (4, 6), solver, 6, cond=LABELS, dtype=torch.float64)
        alone = sample(denoiser, (1, 6), solver, 6, cond={"label": LABELS["label"][2:3]}, ids=[2], dtype=torch.float64)
        assert torch.allclose(together[2:3], alone, atol=1e-12)


@pytest.mark.parametrize("name", SCALED)
def test_rows_at_different_times_answer_as_if_alone(name):
    settings = (
        {"interval": (0.3, 0.7)} if "interval" in {f.name for f in fields(catalog.load("guidance", name))} else {}
    )
    denoiser = guide(bed(), part(name, scale=3.0, **settings))
    x, t = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9, 0.7], dtype=torch.float64)
    both = denoiser(x, t, LABELS, Clock(ids=(0, 1, 2, 3))).x0
    for i in range(4):
        one = denoiser(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=(i,))).x0
        assert torch.allclose(both[i : i + 1], one, atol=1e-12)


@pytest.mark.parametrize("name", SCALED)
def test_other_calls_have_branches_of_their_own_also_when_nested(name):
    spy, bad = Spy(bed()), Spy(bed(std=0.8), "bad")
    outer = Autoguidance(bad, 2.0) if name == "cfg" else CFG(2.0)
    sample(
        guide(spy, catalog.build("guidance", {"name": name, "scale": 2.0}, bad=bad), outer),
        (4, 6),
        DDIM(),
        1,
        cond=LABELS,
    )
    branches, ids = zip(*((c[1], c[2]) for c in spy.calls + bad.calls))  # the bad one may be the same network
    assert len(set(branches)) == len(branches) > 2 and set(ids) == {(0, 1, 2, 3)}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_hidden_in_the_signature(name):
    assert not any(
        p.kind == p.VAR_KEYWORD for p in inspect.signature(catalog.load("guidance", name)).parameters.values()
    )


@pytest.mark.parametrize("rule,weak", [(CFG(2.5), None), (Autoguidance(bed(std=0.8), 2.5), bed(std=0.8))])
def test_the_equation_in_every_kind(rule, weak):
    x, t, clock = torch.randn(4, 6, dtype=torch.float64), 0.6, Clock(ids=(0, 1, 2, 3))
    said = guide(bed(), rule)(x, t, LABELS, clock)
    good = bed()(x, t, LABELS)
    low = weak(x, t, LABELS) if weak else bed()(x, t, None)
    for kind in ("x0", "noise", "velocity", "v", "score"):
        assert torch.allclose(said.get(kind), low.get(kind) + 2.5 * (good.get(kind) - low.get(kind)), atol=1e-10)


def test_what_each_branch_is_asked():
    spy = Spy(bed())
    guide(spy, CFG(2.0))(torch.randn(4, 6), 0.5, LABELS, Clock(ids=(0, 1, 2, 3)))
    assert [(c[1], c[3]) for c in spy.calls] == [("cond", [0, 3, 1, 2]), ("uncond", [4] * 4)]
    spy = Spy(bed())
    guide(spy, CFG(2.0, negative={"label": torch.tensor([1])}))(torch.randn(4, 6), 0.5, LABELS, Clock(ids=(0, 1, 2, 3)))
    assert [(c[1], c[3]) for c in spy.calls] == [("cond", [0, 3, 1, 2]), ("negative", [1] * 4)]


def test_the_interval_saves_the_calls_outside_of_it():
    spy, bad = Spy(bed()), Spy(bed(std=0.8), "bad")
    sample(guide(spy, CFG(2.0, (0.25, 0.55))), (4, 6), DDIM(), 10, cond=LABELS)  # asked at 1.0, 0.9, ... 0.1
    assert [c[1] for c in spy.calls].count("uncond") == 3  # 0.5, 0.4, 0.3
    sample(guide(bed(), Autoguidance(bad, 2.0, (0.0, 0.45))), (4, 6), DDIM(), 10, cond=LABELS)
    assert len(bad.calls) == 4  # 0.4 to 0.1
    x, few = torch.randn(4, 6), Spy(bed())
    guide(few, CFG(2.0, (0.25, 0.55)))(x, torch.tensor([0.1, 0.4, 0.5, 0.9]), LABELS, Clock(ids=(7, 8, 9, 10)))
    assert few.calls[1][1:] == ("uncond", (8, 9), [4, 4])


def test_the_interval_is_in_flow_time_on_every_process():
    for process in (Flow(), VP(), EDM()):
        inside, outside = (float(process.time(-2 * torch.tensor(s).log())) for s in (1.0, 3.5))  # sigma
        for t, calls in ((inside, 2), (outside, 1)):
            spy = Spy(bed(process))
            guide(spy, CFG(2.0, (0.2, 0.75)))(torch.randn(4, 6), t, LABELS, Clock(ids=(0, 1, 2, 3)))
            assert len(spy.calls) == calls


def test_tokens_of_one_sample_may_stand_at_different_times():
    denoiser = guide(bed(), CFG(2.0, (0.3, 0.7)))
    t = torch.tensor([[0.1, 0.1, 0.5, 0.5, 0.9, 0.9]], dtype=torch.float64).expand(4, 6)
    x = torch.randn(4, 6, dtype=torch.float64)
    said, plain = denoiser(x, t, LABELS, Clock()).x0, bed()(x, t, LABELS).x0
    changed = (said != plain).any(0)
    assert changed.tolist() == [False, False, True, True, False, False]


def test_autoguidance_sharpens_a_gaussian_as_the_formula_says():
    """Two denoisers of one Gaussian, both too wide: D_w = D_0 + w (D_1 - D_0) has the slope of a narrower one."""
    good, bad = (Mixture(torch.zeros(1, 1), torch.tensor(s, dtype=torch.float64), EDM()) for s in (1.2, 1.6))
    x, sigma = torch.ones(1, 1, dtype=torch.float64), 0.7
    slopes = [v**2 / (v**2 + sigma**2) for v in (1.2, 1.6)]
    said = guide(good, Autoguidance(bad, 2.0))(x, sigma, None, Clock()).x0
    assert said.item() == pytest.approx(slopes[1] + 2 * (slopes[0] - slopes[1]), abs=1e-12)


@pytest.mark.parametrize(
    "act,words",
    [
        (lambda: CFG(2.0, (0.7, 0.3)), "rising pair"),
        (lambda: CFG(2.0, (0.0, 5.0)), "flow times"),
        (lambda: CFG(2.0, negative={"label": torch.tensor([1, 2])}), "one row"),
        (lambda: guide(bed(), CFG(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
        (lambda: guide(bed(), Autoguidance(bed(EDM()), 2.0))(torch.randn(2, 6), 0.5, None, Clock()), "same process"),
        (lambda: catalog.build("guidance", "cfg:scael=3"), "Did you mean 'scale'"),
    ],
)
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
