"""What every editing program keeps to, over all files of the room; and inversion against exact trajectories."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.editing.inversion import Inversion
from ornstein.guidance.cfg import CFG
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("editing")]
NEUTRAL = {n: getattr(catalog.load("editing", n), "neutral", {}) for n in NAMES}  # what turns off all but the condition
LABELS = {"label": torch.tensor([0, 1, 2, 3])}
OTHERS = {"label": torch.tensor([1, 2, 3, 0])}
PROCESSES = [(Flow(), "uniform"), (VP(), "uniform"), (EDM(), "karras")]


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.6)


def data(mixture, cond=LABELS):
    return mixture.sample(len(cond["label"]), seed=3, cond=cond)


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_edit_reconstructs(name):
    mixture = bed()
    x = data(mixture)
    back = catalog.build("editing", {"name": name, "steps": 100, **NEUTRAL[name]}).edit(mixture, x, LABELS, LABELS)
    assert back.shape == x.shape and (back - x).square().mean().sqrt() < 0.1 * x.std()


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_changes_the_label_and_no_neighbour(name):
    mixture = bed()
    x, part = data(mixture), catalog.build("editing", {"name": name, "steps": 30, **NEUTRAL[name]})
    new = part.edit(mixture, x, LABELS, OTHERS)
    logits = torch.stack([mixture.log_density(new, 0.0, {"label": torch.full((4,), k)}) for k in range(4)], 1)
    assert logits.argmax(1).tolist() == [1, 2, 3, 0]
    alone = part.edit(mixture, x[2:3], {"label": LABELS["label"][2:3]}, {"label": OTHERS["label"][2:3]}, ids=[2])
    assert torch.allclose(new[2:3], alone, atol=1e-10)


@pytest.mark.parametrize("process,rule", PROCESSES, ids=lambda p: type(p).__name__ if not isinstance(p, str) else p)
def test_corrections_undo_the_sampler_exactly(process, rule):
    mixture = bed(process)
    x = data(mixture)
    errors = [
        (Inversion(20, k, rule=rule).edit(mixture, x, LABELS, LABELS) - x).abs().max().item() for k in (0, 3, 200)
    ]
    assert errors[2] < 1e-8 < errors[0] and errors[1] < errors[0]


@pytest.mark.parametrize("process,rule", PROCESSES, ids=lambda p: type(p).__name__ if not isinstance(p, str) else p)
def test_the_latent_converges_to_the_exact_one_at_order_1(process, rule):
    mixture = bed(process)
    x = data(mixture)
    truth = mixture.exact(x, 1e-6, process.t_max, LABELS)
    error = [
        (Inversion(n, rule=rule).invert(mixture, x, LABELS) - truth).square().mean().sqrt().item()
        for n in (40, 80, 160)
    ]
    assert error[2] < 0.1 * truth.std() and 1.6 < error[0] / error[1] < 2.6 and 1.6 < error[1] / error[2] < 2.6


def test_generate_is_the_loop_s_own_ddim():
    mixture, noise = bed(), torch.randn(4, 6)
    assert torch.equal(Inversion(7).generate(mixture, noise, LABELS), sample(mixture, noise, DDIM(), 7, cond=LABELS))


def test_under_guidance_and_part_of_the_way():
    mixture = bed()
    x, guided = data(mixture), guide(bed(), CFG(2.0))
    assert (Inversion(20, 100).edit(guided, x, LABELS, LABELS) - x).abs().max() < 1e-8
    assert torch.equal(Inversion(20, strength=0.0).edit(mixture, x, LABELS, OTHERS), x)
    moved = [
        (Inversion(40, strength=s).edit(mixture, x, LABELS, OTHERS) - x).square().mean().item() for s in (0.1, 0.4, 1.0)
    ]
    assert moved[0] < moved[1] < moved[2]
    assert Inversion(40, strength=0.25).times(mixture, x).tolist() == pytest.approx(
        [0.25 * (1 - k / 10) for k in range(11)]
    )


def test_calls_and_clocks():
    mixture, clocks = bed(), []

    class Spy:
        process = mixture.process

        def __call__(self, x, t, cond=None, clock=None):
            clocks.append(clock)
            return mixture(x, t, cond, clock)

    Inversion(5, 2).edit(Spy(), data(mixture), LABELS, OTHERS, ids=[3, 4, 5, 6])
    assert len(clocks) == 5 * 3 + 5 and {c.ids for c in clocks} == {(3, 4, 5, 6)}
    assert [(c.step, c.evaluation) for c in clocks[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_errors_name_the_remedy():
    for settings in ({"strength": 1.5}, {"corrections": -1}):
        with pytest.raises(OrnsteinError, match="Corrections are 0 or more, strength lies in 0 to 1"):
            Inversion(**settings)
