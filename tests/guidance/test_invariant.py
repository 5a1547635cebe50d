"""Invariant guidance: neutral at the start, groups that follow the loss, a term that goes to the balanced law."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.guidance.cfg import CFG
from ornstein.guidance.invariant import Invariant, Shift, fit
from ornstein.guidance.layers.groups import losses, split
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
NOW = Clock(ids=(0, 1, 2, 3))


def bed(process=None, rare=0.1):
    return Mixture(MEANS, torch.tensor(0.3), process or Flow(), torch.tensor([1 - rare, rare]), torch.tensor([0, 0]))


def data(mixture, n=400):
    cond = {"label": torch.zeros(n, dtype=torch.long)}
    x = mixture.sample(n, seed=1, cond=cond)
    return x, cond, x[:, 0] > 0


@pytest.fixture(scope="module")
def learned():
    x, cond, rare = data(bed())
    return fit(bed(), x, cond, F.one_hot(rare.long(), 2), steps=200, batch=96)


def test_the_term_is_nothing_at_the_start():
    net, x = Shift(2, 3, 8), torch.randn(4, 2)
    assert torch.equal(net(x, torch.rand(4), torch.tensor([0, 1, 2, 0])), torch.zeros(4, 2))
    x, cond, _ = data(bed(), 40)
    plain = sample(bed(), (4, 2), DDIM(), 4, cond={"label": torch.zeros(4, dtype=torch.long)})
    untrained = guide(bed(), Invariant(fit(bed(), x, cond, 2, steps=0, pairs=2)))
    assert torch.allclose(sample(untrained, (4, 2), DDIM(), 4, cond={"label": torch.zeros(4, dtype=torch.long)}), plain)


def test_with_the_true_groups_it_goes_toward_the_balanced_answer(learned):
    x, t = torch.tensor([[-0.3, 0.1], [0.3, 0.0], [0.0, -0.2], [0.8, 0.3]]), torch.tensor([0.4, 0.5, 0.6, 0.7])
    cond = {"label": torch.zeros(4, dtype=torch.long)}
    wanted, biased = bed(rare=0.5)(x, t, cond).x0, bed()(x, t, cond).x0
    got = guide(bed(), Invariant(learned))(x, t, cond, NOW).x0
    assert (got - wanted).square().mean() < 0.35 * (biased - wanted).square().mean()
    half = guide(bed(), Invariant(learned, weight=0.5))(x, t, cond, NOW).x0
    assert torch.allclose(half, (got + biased) / 2, atol=1e-5)
    share = [float((sample(d, (300, 2), DDIM(), 8, cond={"label": torch.zeros(300, dtype=torch.long)})[:, 0] > 0).float().mean())
             for d in (bed(), guide(bed(), Invariant(learned)))]  # fmt: skip
    assert share[0] < 0.2 and share[1] > 1.8 * share[0]


@pytest.mark.parametrize("process", [VP(), EDM()], ids=lambda p: type(p).__name__)
def test_on_other_processes_too(process):
    x, cond, rare = data(bed(process))
    rule = Invariant(fit(bed(process), x, cond, F.one_hot(rare.long(), 2), steps=120, batch=96))
    few = {"label": torch.zeros(4, dtype=torch.long)}
    for logsnr, left in ((1.0, 0.7), (-1.5, 0.05)):
        t = float(process.time(torch.tensor(logsnr)))
        levels = process.at(t, x)
        noisy = float((levels.a**2 + levels.s**2) ** 0.5) * torch.tensor(
            [[-0.3, 0.1], [0.3, 0.0], [0.0, -0.2], [0.5, 0.3]]
        )
        wanted, biased = bed(process, 0.5)(noisy, t, few).x0, bed(process)(noisy, t, few).x0
        got = guide(bed(process), rule)(noisy, t, few, NOW).x0
        assert (got - wanted).square().mean() < left * (biased - wanted).square().mean()


def test_the_same_term_says_the_same_on_every_process(learned):
    """At one ratio of signal to noise, with x of unit scale: x0 is moved alike."""
    x, cond, found = torch.randn(4, 2), {"label": torch.zeros(4, dtype=torch.long)}, []
    for process in (Flow(), VP(), EDM()):
        t = float(process.time(torch.tensor(-1.5, dtype=torch.float64)))
        levels, twin = process.at(t, x), replace(learned, made_for=describe(bed(process)))
        noisy = x * float((levels.a**2 + levels.s**2) ** 0.5)
        moved = guide(bed(process), Invariant(twin))(noisy, t, cond, NOW).x0
        found.append(moved - bed(process)(noisy, t, cond).x0)
    assert torch.allclose(found[0], found[1], atol=1e-4) and torch.allclose(found[0], found[2], atol=1e-4)
    assert found[0].abs().max() > 0.05


def test_rows_are_alone_and_other_branches_are_left(learned):
    d, x, t = guide(bed(), Invariant(learned)), torch.randn(4, 2), torch.tensor([0.1, 0.4, 0.6, 1.0])
    cond = {"label": torch.zeros(4, dtype=torch.long)}
    both = d(x, t, cond, NOW).velocity
    for i in range(4):
        one = d(x[i : i + 1], float(t[i]), {"label": cond["label"][:1]}, Clock(ids=(i,))).velocity
        assert bool(one.isfinite().all()) and torch.allclose(both[i : i + 1], one, atol=1e-5)
    off = d(x, 0.5, cond, NOW.at("uncond"))
    assert torch.equal(off.value, bed()(x, 0.5, cond).value)
    run = Run()
    sample(guide(bed(), Invariant(learned), CFG(2.0)), (4, 2), DDIM(), 2, cond=cond, run=run)


def test_a_loss_is_the_error_of_the_noise():
    mixture, x = bed(), data(bed(), 6)[0]
    cond, found = {"label": torch.zeros(6, dtype=torch.long)}, 0.0
    for k, logsnr in enumerate((-3.0, 3.0)):
        t = float(mixture.process.time(torch.tensor(logsnr, dtype=torch.float64)))
        noise = NoiseSource.of(2, range(6)).draw(k, x)
        found = (
            found + (mixture(mixture.process.corrupt(x, noise, t), t, cond).noise - noise).square().mean(1).double() / 2
        )
    assert torch.allclose(losses(mixture, x, cond, 2, (-6.0, 6.0), 2), found, rtol=1e-4)


def test_groups_follow_the_loss_and_none_is_empty():
    loss = torch.cat([torch.full((90,), 1.0), torch.full((10,), 4.0)]) + 0.01 * torch.rand(100)
    found = split(loss, 2)
    assert torch.allclose(found.sum(1), torch.ones(100, dtype=torch.float64))
    assert found[90:, 1].min() > found[:90, 1].max() and bool((found.sum(0) > 5).all())
    assert found[90:, 1].mean() > 0.9
    many = split(loss, 5)
    means = (many * loss[:, None]).sum(0) / many.sum(0)
    assert bool((means.diff() >= 0).all()) and torch.equal(split(loss, 1), torch.ones(100, 1, dtype=torch.float64))


def test_the_penalty_asks_for_equal_losses():
    x, cond, rare = data(bed())
    groups = F.one_hot(rare.long(), 2)
    nets = [fit(bed(), x, cond, groups, penalty, steps=80, batch=96) for penalty in (0.0, 30.0)]
    gap = []
    for found in nets:
        d = guide(bed(), Invariant(found))
        each = losses(d, x, cond, 8, (-2.0, 2.0), 0)
        gap.append(float(each[rare].mean() - each[~rare].mean()))
    assert gap[1] < gap[0]


def test_kept_and_refused_elsewhere(learned, tmp_path):
    rule = Invariant(learned.save(tmp_path / "i.safetensors"))
    x, cond = torch.randn(4, 2), {"label": torch.zeros(4, dtype=torch.long)}
    same = guide(bed(), Invariant(learned))(x, 0.5, cond, NOW).value
    assert torch.equal(guide(bed(), rule)(x, 0.5, cond, NOW).value, same)
    wide = Mixture(torch.zeros(1, 3), torch.tensor(1.0), Flow())
    for act, words in (
        (lambda: guide(bed(VP()), rule)(x, 0.5, cond, NOW), "calibrated for process"),
        (lambda: Invariant(Artefact("gate", {})), "is of 'gate'"),
        (lambda: fit(bed(), x[:1], None), "at least two samples"),
        (lambda: guide(wide, rule)(torch.randn(4, 3), 0.5, None, NOW), "trained for 2"),
    ):
        with pytest.raises(OrnsteinError, match=words):
            act()
