"""Who is asked when: stitching by steps, by level and by table; weights over several denoisers; the gate."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.guidance.cfg import CFG
from ornstein.guidance.ensemble import Ensemble, Gate
from ornstein.guidance.stitch import Stitch
from ornstein.model import load
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.solvers.heun import Heun
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
PROCESSES = [Flow(), VP(), EDM()]
IDS = (7, 8, 9, 10)
named = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


class Spy:
    """A denoiser that writes down what it was asked, and may speak in another kind."""

    def __init__(self, std=0.4, process=None, kind="x0"):
        self.denoiser = Mixture.random(process or Flow(), dims=6, components=4, std=std)
        self.calls, self.process, self.kind = [], self.denoiser.process, kind

    def __call__(self, x, t, cond=None, clock=None):
        label = None if cond is None else cond["label"].tolist()
        self.calls.append((clock.step, clock.branch, clock.ids, label))
        said = self.denoiser(x, t, cond, clock)
        return said.like(self.kind, said.get(self.kind))

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)


def steps_of(spy):
    return [c[0] for c in spy.calls]


def noise(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", [Stitch((Spy(),), (0.0,)), Stitch((Spy(),), table=(0,) * 5), Ensemble((Spy(),), (0.0,)),
                                  Ensemble((Spy(),), (torch.zeros(()),))])  # fmt: skip
def test_no_share_is_the_wrapped_denoiser_bit_exactly(rule):
    for solver in (DDIM(eta=1.0), DPMpp2M()):
        plain, spy = sample(Spy(), (4, 6), solver, 5, cond=LABELS), Spy()
        assert torch.equal(sample(guide(spy, rule), (4, 6), solver, 5, cond=LABELS), plain)
        assert steps_of(spy) == [0, 1, 2, 3, 4] and not rule.others[0].calls


def test_all_shares_are_the_other_one_bit_exactly():
    for make in (lambda o: Stitch((o,), (1.0,)), lambda o: Ensemble((o,), (1.0,))):
        spy, other = Spy(), Spy(0.8)
        said = sample(guide(spy, make(other)), (4, 6), DPMpp2M(), 5, cond=LABELS)
        assert torch.equal(said, sample(Spy(0.8), (4, 6), DPMpp2M(), 5, cond=LABELS)) and not spy.calls


def test_the_shares_say_who_takes_which_step():
    large, small, middle = Spy(), Spy(0.9), Spy(0.6)
    sample(guide(large, Stitch((small, middle), (0.3, 0.4))), (4, 6), DDIM(), 10, cond=LABELS)
    assert (steps_of(small), steps_of(middle), steps_of(large)) == ([0, 1, 2], [3, 4, 5, 6], [7, 8, 9])
    large, small = Spy(), Spy(0.9)
    sample(guide(large, Stitch((small,), (0.4,))), (4, 6), Heun(), 5, cond=LABELS)
    assert set(steps_of(small)) == {0, 1} and set(steps_of(large)) == {2, 3, 4}
    assert {c[1] for c in small.calls} == {"other1"} and {c[1] for c in large.calls} == {"cond"}


def test_a_table_says_who_takes_which_step():
    large, small = Spy(), Spy(0.9)
    sample(guide(large, Stitch((small,), table=(0, 1, 1, 0, 1))), (4, 6), DDIM(), 5, cond=LABELS)
    assert (steps_of(small), steps_of(large)) == ([1, 2, 4], [0, 3])
    with pytest.raises(OrnsteinError, match="table of 3 steps in a run of 5"):
        sample(guide(large, Stitch((small,), table=(0, 1, 1))), (4, 6), DDIM(), 5, cond=LABELS)


@named
def test_levels_choose_row_by_row(process):
    """The share is of flow time from the noise; rows are asked of one model each, and answer as if alone."""
    large, small = Spy(process=process), Spy(0.9, process)
    t = torch.stack([process.time(-2 * torch.tensor(s, dtype=torch.float64).log()) for s in (0.1, 4.0, 0.5, 9.0)])
    x, rule = noise(4, 6), Stitch((small,), (0.4,), by="level")  # the small one above flow time 0.6, sigma 1.5
    both = guide(large, rule)(x, t, LABELS, Clock(ids=IDS))
    assert large.calls == [(0, "cond", (7, 9), [0, 1])] and small.calls == [(0, "other1", (8, 10), [3, 2])]
    for i, who in enumerate((large, small, large, small)):
        alone = who.denoiser(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]})
        assert torch.allclose(both.x0[i : i + 1], alone.x0, atol=1e-12)
        scalar = guide(large, rule)(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=IDS[i : i + 1]))
        assert torch.equal(scalar.x0, alone.x0)


def test_tokens_of_one_sample_may_stand_at_different_times():
    t = torch.tensor([[0.1, 0.1, 0.5, 0.5, 0.9, 0.9]], dtype=torch.float64).expand(4, 6)
    x, large, small = noise(4, 6), Spy(), Spy(0.9)
    said = guide(large, Stitch((small,), (0.3,), by="level"))(x, t, LABELS, Clock(ids=IDS)).x0
    assert torch.equal(said[:, :4], large.denoiser(x, t, LABELS).x0[:, :4])
    assert torch.equal(said[:, 4:], small.denoiser(x, t, LABELS).x0[:, 4:])


@named
@pytest.mark.parametrize("kind", ["noise", "velocity", "v", "score"])
def test_the_mean_is_the_same_in_every_kind(process, kind):
    one, two, three = Spy(process=process), Spy(0.9, process, kind), Spy(0.6, process)
    x, clock = noise(4, 6), Clock(ids=IDS)
    t = process.time(torch.tensor(-0.4, dtype=torch.float64))
    for rule in (Ensemble((two, three), (0.2, 0.5)), Ensemble((two, three), (0.2, lambda level: 0.5))):
        said = guide(one, rule)(x, t, LABELS, clock)
        a, b, c = (d.denoiser(x, t, LABELS) for d in (one, two, three))
        for name in ("x0", "noise"):
            expected = 0.3 * a.get(name) + 0.2 * b.get(name) + 0.5 * c.get(name)
            assert torch.allclose(said.get(name), expected, atol=1e-10)
    assert [c[1] for c in three.calls] == ["other2"] * 2


def test_regions_and_levels():
    one, two = Spy(), Spy(0.9)
    x, t = noise(4, 6), torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    region = torch.tensor([0.0, 0, 0, 1, 1, 0.5])
    said = guide(one, Ensemble((two,), (region,)))(x, t, LABELS, Clock(ids=IDS)).x0
    a, b = (d.denoiser(x, t, LABELS).x0 for d in (one, two))
    assert torch.allclose(said, a + region * (b - a), atol=1e-12)
    one.calls.clear(), two.calls.clear()
    guide(one, Ensemble((two,), (lambda level: (level > 0.5).double(),)))(x, t, LABELS, Clock(ids=IDS))
    assert [c[2] for c in one.calls] == [(7, 8)] and [c[2] for c in two.calls] == [(9, 10)]
    said = guide(one, Ensemble((two,), (lambda level: 0.3 * (level > 0.5),)))(x, t, LABELS, Clock(ids=IDS)).x0
    weight = torch.tensor([0.0, 0.0, 0.3, 0.3], dtype=torch.float64)[:, None]
    assert torch.allclose(said, a + weight * (b - a), atol=1e-7) and two.calls[-1][2] == (9, 10)


def test_guidance_inside_and_outside():
    """Each model may have a scale of its own; outside, branches stay apart."""
    large, small = Spy(), Spy(0.9)
    own = guide(large, CFG(2.0)), guide(small, CFG(3.0))
    sample(guide(own[0], Stitch((own[1],), (0.5,))), (4, 6), DDIM(), 2, cond=LABELS)
    assert [c[1] for c in small.calls] == ["other1", "other1/uncond"] and [c[1] for c in large.calls] == ["cond", "uncond"]
    large, small = Spy(), Spy(0.9)
    sample(guide(large, Stitch((small,), (0.5,)), CFG(2.0)), (4, 6), DDIM(), 2, cond=LABELS)
    assert [c[1] for c in small.calls] == ["other1", "uncond/other1"] and [c[1] for c in large.calls] == ["cond", "uncond"]


@pytest.mark.parametrize("make", [lambda o: Stitch((o,), (0.5,)), lambda o: Stitch((o,), (0.5,), by="level"),
                                  lambda o: Ensemble((o,), (0.3,))])  # fmt: skip
def test_a_sample_does_not_depend_on_its_neighbours(make):
    for solver in (DDIM(eta=0.5), DPMpp2M()):
        denoiser = guide(Spy(), make(Spy(0.9)))
        together = sample(denoiser, (4, 6), solver, 6, cond=LABELS, dtype=torch.float64)
        alone = sample(denoiser, (1, 6), solver, 6, cond={"label": LABELS["label"][2:3]}, ids=[2], dtype=torch.float64)
        assert torch.allclose(together[2:3], alone, atol=1e-12)


def test_precision_by_step():
    """A bf16 copy for the first half of the steps; the record counts its calls."""
    full, run = load("digits").denoiser, Run()
    low = replace(full, backbone=copy.deepcopy(full.backbone).bfloat16())
    plain = sample(full, (4, 1, 8, 8), DDIM(), 4, cond=LABELS)
    mixed = sample(guide(full, Stitch((low,), (0.5,))), (4, 1, 8, 8), DDIM(), 4, cond=LABELS, run=run)
    assert mixed.dtype == torch.float32 and 0 < (mixed - plain).norm() < 0.2 * plain.norm()
    assert run.record.calls["other1"] == 2 and run.record.calls["cond"] == 2


def images(std=0.4):
    return Mixture.random(Flow(), dims=16, components=4, std=std)


def test_a_fresh_gate_is_the_mean_and_only_it_learns():
    torch.manual_seed(0)
    gate, x, t = Gate(1, 2), noise(4, 1, 4, 4), torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64)
    both = guide(images(), Ensemble((images(0.9),), gate=gate))
    mean = guide(images(), Ensemble((images(0.9),), (0.5,)))
    said = both(x, t, LABELS, Clock(ids=IDS))
    assert torch.allclose(said.x0, mean(x, t, LABELS, Clock(ids=IDS)).x0, atol=1e-6)
    said.x0.square().sum().backward()
    assert gate.out.bias.grad.isfinite().all() and gate.out.weight.grad.abs().max() > 0


def test_the_gate_weighs_each_place_and_each_sample_alone():
    gate = Gate(1, 2)
    torch.nn.init.normal_(gate.out.weight, generator=torch.Generator().manual_seed(1))
    x, t = noise(4, 1, 4, 4), torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64)
    one, two = images(), images(0.9)
    both, answers = guide(one, Ensemble((two,), gate=gate)), [d(x, t, LABELS).x0 for d in (one, two)]
    weights = gate(x, answers, t)
    assert weights.shape == (2, 4, 1, 4, 4) and torch.allclose(weights.sum(0), torch.ones(4, 1, 4, 4, dtype=torch.float64))
    assert weights[0].std() > 1e-3
    said = both(x, t, LABELS, Clock(ids=IDS)).x0
    assert torch.allclose(said, weights[0] * answers[0] + weights[1] * answers[1], atol=1e-6)
    for i in range(4):
        alone = both(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=IDS[i : i + 1])).x0
        assert torch.allclose(said[i : i + 1], alone, atol=1e-6)


def test_the_gate_is_shown_x0_whatever_is_said():
    shown = []

    def gate(x, answers, place):
        shown.append(torch.stack(answers))
        return torch.full((2, *x.shape), 0.5, dtype=x.dtype)

    x, clock = noise(4, 6), Clock(ids=IDS)
    for kind in ("x0", "velocity", "noise"):
        guide(Spy(kind=kind), Ensemble((Spy(0.9, kind="v"),), gate=gate))(x, 0.4, LABELS, clock)
    assert torch.allclose(shown[0], shown[1]) and torch.allclose(shown[0], shown[2])
    assert torch.allclose(shown[0][0], Spy().denoiser(x, 0.4, LABELS).x0)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: Stitch((Spy(),), (0.4, 0.2)), "each of the others its share"),
        (lambda: Stitch((Spy(),), (1.4,)), "0 to 1 in all"),
        (lambda: Stitch((Spy(),), table=(0, 2)), "numbers from 0"),
        (lambda: Stitch((Spy(),), (0.5,), table=(0, 1)), "or shares"),
        (lambda: Stitch((Spy(),), (0.5,), by="levle"), "Did you mean 'level'"),
        (lambda: Ensemble((Spy(),), (0.1, 0.2)), "a weight, or a gate"),
        (lambda: Ensemble((Spy(),), (0.1,), gate=Gate(1, 2)), "a weight, or a gate"),
        (lambda: Ensemble(gate=Gate(1, 2)), "Give others"),
        (lambda: sample(guide(Spy(), Stitch((Spy(process=VP()),), (0.5,))), (4, 6), DDIM(), 2), "same process"),
    ],
)
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
