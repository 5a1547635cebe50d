"""What the contract leaves unsaid of USF: it is DDIM and DPM-Solver++(2M), orders of its other settings, lists, schedules."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.process import grid
from ornstein.solvers.usf import DECISIONS, USF
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def world(process="vp", std=0.3):
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=std, seed=1)
    noise = torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    return mixture, mixture.process.prior(noise)


@pytest.mark.parametrize("rule", ["uniform", "karras"])
@pytest.mark.parametrize("process", ["flow", "vp", "vp:schedule=linear", "edm"])
def test_as_it_stands_it_is_dpmpp2m_and_with_one_term_ddim(process, rule):
    mixture, x = world(process)
    draw = lambda solver: sample(mixture, x, solver, 7, rule=rule)  # noqa: E731
    assert (draw(USF()) - draw(catalog.build("solvers", "dpmpp2m"))).abs().max() < 1e-11
    assert torch.equal(draw(USF(terms=1)), draw(catalog.build("solvers", "ddim")))
    assert torch.equal(draw(USF("noise", 1)), draw(catalog.build("solvers", "ddim")))


SETTINGS = [USF("noise"), USF(terms=1, correct=True), USF(scale="exact", correct=True), USF("noise", 2, "full", "exact", True),
            USF(terms=3, scale="exact"), USF(terms=3, scale="exact", correct=True), USF(terms=3, estimate="low")]  # fmt: skip


@pytest.mark.parametrize("solver", SETTINGS, ids=lambda s: f"{s.predict}-{s.terms}-{s.estimate}-{s.scale}-{s.correct}")
def test_order_of_the_other_settings(solver):
    """At least the declared one, on an uneven grid; a better start can do better than it on the way to the limit."""
    mixture, _ = world("vp", 0.8)
    noise = torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x = mixture.process.corrupt(mixture.sample(8), noise, 0.85)
    exact, error = mixture.exact(x, 0.85, 0.25, steps=600), {}
    for n in (24, 48):
        h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(n // 2)
        times = 0.85 - 0.6 * torch.cat([torch.zeros(1), h.cumsum(0)]) / h.sum()
        error[n] = (sample(mixture, x, solver, rule=times.tolist()) - exact).square().mean().sqrt().item()
    assert math.log2(error[24] / error[48]) > solver.order - 0.2


def test_the_weights_are_those_of_the_integral():
    """I_k, J_k and the differences against quadrature of e^u times the parabola through the points."""
    from ornstein.solvers.layers.series import weights

    h, g, g2 = (torch.tensor(v, dtype=DOUBLE) for v in (0.7, -0.4, -1.1))
    u = (torch.arange(200_000, dtype=DOUBLE) + 0.5) / 200_000 * h
    for noise in (False, True):
        kernel = torch.exp((h - u) if noise else (u - h)) * h / len(u) * (-1 if noise else 1)
        one, two = weights(noise, False, True, h, g, g2)
        assert one == pytest.approx((kernel * u * (u - g2) / (g * (g - g2))).sum().item(), rel=1e-8)
        assert two == pytest.approx((kernel * u * (u - g) / (g2 * (g2 - g))).sum().item(), rel=1e-8)
        assert weights(noise, False, True, h, g)[0] == pytest.approx((kernel * u / g).sum().item(), rel=1e-8)
        near, far = weights(noise, False, True, h, g, torch.tensor(-math.inf, dtype=DOUBLE))
        assert near == weights(noise, False, True, h, g)[0] and far == 0


def test_one_decision_per_step():
    """A list is obeyed step by step: the first steps of one setting, the rest of another."""
    mixture, x = world()
    times, kept = grid(mixture.process, 6).tolist(), []
    mixed = sample(mixture, x, USF(terms=(1, 1, 1, 2, 2, 2)), rule=times, progress=lambda s, n: kept.append(s.x))
    ddim = []
    sample(mixture, x, USF(terms=1), rule=times, progress=lambda s, n: ddim.append(s.x))
    assert torch.equal(kept[2], ddim[2]) and not torch.allclose(kept[3], ddim[3])
    assert torch.equal(sample(mixture, x, USF(terms=(2,) * 6), rule=times), sample(mixture, x, USF(), rule=times))
    assert not torch.equal(mixed, sample(mixture, x, USF(terms=(2, 2, 2, 1, 1, 1)), rule=times))
    with pytest.raises(OrnsteinError, match="decisions for 6 steps, and this run has 5"):
        sample(mixture, x, USF(terms=(2,) * 6), 5)


def test_the_decision_of_a_step_is_found_again_after_a_rewind():
    mixture, x = world()
    seen = []

    class Watch(USF):
        def _rule(self, k, *given):
            seen.append(k)
            return super()._rule(k, *given)

    class Back(Controller):
        def __init__(self):
            self.done = False

        def after(self, before, now):
            if now.step == 4 and not self.done:
                self.done = True
                return before
            return now

    sample(mixture, x, Watch(terms=(1, 2, 2, 1, 2)), 5, controllers=[Back()])
    assert seen == [0, 1, 0, 2, 1, 3, 2, 3, 4, 3]


def test_a_step_is_corrected_by_its_own_decisions():
    """With one term the series is of no account but in the corrector, which comes with the next step."""
    mixture, x = world("edm")
    draw = lambda *kinds: sample(mixture, x, USF(kinds, 1, correct=(True, False, False)), 3, rule="karras")  # noqa: E731
    assert not torch.allclose(draw("x0", "noise", "x0"), draw("noise", "noise", "x0"))
    assert torch.allclose(draw("x0", "noise", "x0"), draw("x0", "noise", "noise"))


def test_a_schedule_is_read_as_it_was_numbered(tmp_path):
    rows = torch.tensor([[0, 1, 0, 0, 0], [1, 2, 1, 1, 1], [0, 0, 0, 1, 0]])
    found = Artefact("schedule", {"decisions": rows})
    solver = catalog.build("solvers", f"usf:schedule='{found.save(tmp_path / 'found.safetensors')}'")
    read = [tuple(getattr(solver, name)[k] for name in DECISIONS) for k in range(3)]
    assert read == [("x0", 2, "full", "leading", False), ("noise", 3, "low", "exact", True), ("x0", 1, "full", "exact", False)]
    with pytest.raises(OrnsteinError, match="no decisions"):
        USF(schedule=Artefact("schedule", {"times": torch.ones(3)}))


@pytest.mark.parametrize(
    "wrong, words",
    [({"predict": "velocity"}, "predict of USF"), ({"terms": 4}, "terms of USF"), ({"scale": ("exact", "most")}, "scale of USF"),
     ({"terms": (1, 2), "correct": (True,)}, "lists of")],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong, words):
    with pytest.raises(OrnsteinError, match=words):
        USF(**wrong)
