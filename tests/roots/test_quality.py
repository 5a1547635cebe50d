"""Losses: nothing for the reference, more for worse plans, and intervals that hold what they say."""

import math

import pytest
import torch

import ornstein
from ornstein.quality import LOSSES, Loss, Trial, student


@pytest.fixture(scope="module")
def trial():
    model = ornstein.load("digits")
    return Trial(model, reference=model.plan(steps=12))


@pytest.fixture(scope="module")
def drawn(trial):
    few = trial.draw(trial.model.plan(steps=3, solver="ddim", grid="uniform"), 0, 64)[0]
    return {"noise": torch.randn(few.shape, generator=torch.manual_seed(0)), 3: few}


@pytest.mark.parametrize("metric", LOSSES)
def test_the_reference_loses_nothing_and_noise_most(trial, drawn, metric):
    none = trial.loss(metric, trial.truth(0, 64), 0)
    assert none.mean == pytest.approx(0, abs=1e-9)
    noise, three = (trial.loss(metric, drawn[n], 0) for n in ("noise", 3))
    assert noise.interval()[0] > 0 and noise.mean > three.mean and noise.interval()[0] < noise.mean < noise.below()


def test_the_floor_is_another_picture_of_the_same_prompt(trial):
    assert trial.floor("latent", 8).mean > 0.3 and abs(trial.floor("accuracy", 32).mean) < 0.1


def test_a_loss_is_the_formula(trial, drawn):
    truth = trial.truth(0, 64)
    gap = (drawn[3] - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    assert torch.allclose(trial.loss("latent", drawn[3], 0).values, gap.double(), rtol=1e-5)
    pixels = (drawn[3].clamp(-1, 1) - truth.clamp(-1, 1)) / 2
    assert trial.loss("rms", drawn[3], 0).mean == pytest.approx(
        pixels.square().flatten(1).mean(1).sqrt().mean().item(), rel=1e-4
    )


def test_students_quantiles():
    table = {(0.95, 7): 1.895, (0.975, 31): 2.040, (0.975, 159): 1.975, (0.9875, 15): 2.490}  # of any book
    for (confidence, freedom), value in table.items():
        assert student(confidence, freedom) == pytest.approx(value, abs=6e-3)


def test_an_interval_holds_the_mean_as_often_as_it_says():
    draws = torch.randn(2000, 12, generator=torch.manual_seed(0), dtype=torch.float64).exp()  # skewed, mean e^0.5
    inside = [Loss("latent", row).interval()[0] < math.exp(0.5) < Loss("latent", row).interval()[1] for row in draws]
    plain = torch.randn(2000, 12, generator=torch.manual_seed(1), dtype=torch.float64)
    kept = [Loss("latent", row).below(0.95) > 0 for row in plain]
    assert 0.94 < sum(kept) / 2000 < 0.96 and sum(inside) / 2000 > 0.8


def test_no_miss_seen_is_not_no_miss():
    assert Loss("accuracy", torch.zeros(50, dtype=torch.float64)).below() > 0.02


def test_unknown_and_too_few(trial, drawn):
    with pytest.raises(ornstein.OrnsteinError, match="Did you mean 'latent'"):
        trial.loss("latnet", drawn[3], 0)
    with pytest.raises(ornstein.OrnsteinError, match="too few for kid"):
        trial.loss("kid", drawn[3][:8], 0)
    with pytest.raises(ornstein.OrnsteinError, match="no classifier of the pictures of 'emoji'"):
        Trial(ornstein.load("emoji"), ["fox"])._misses(torch.zeros(1, 3, 32, 32))


def test_losses_that_lean_are_not_promised_too_low():
    """Log-normal losses of heavy tail: the corrected bound holds the mean more often than Student's, and near as often as said."""
    draws = (1.2 * torch.randn(3000, 64, generator=torch.manual_seed(2), dtype=torch.float64)).exp()
    truth = math.exp(1.2**2 / 2)
    held = sum(Loss("latent", row).below(0.95) >= truth for row in draws) / 3000
    students = sum((row.mean() + student(0.95, 63) * row.std() / 8).item() >= truth for row in draws) / 3000
    assert students + 0.02 < held < 0.96 and held > 0.88
