"""Losses: nothing for the reference, more for worse plans, and intervals that hold what they say."""

import math

import pytest
import torch

import ornstein
from ornstein.evaluate import real_pictures
from ornstein.quality import LOSSES, Loss, Trial, reference_of, student
from ornstein.rewards import reward


@pytest.fixture(scope="module")
def trial():
    model = ornstein.load("digits")
    return Trial(model, reference=model.plan(steps=12))


@pytest.fixture(scope="module")
def drawn(trial):
    few = trial.draw(trial.model.plan(steps=3, solver="ddim", grid="uniform"), 0, 64)[0]
    return {"noise": torch.randn(few.shape, generator=torch.manual_seed(0)), 3: few}


@pytest.mark.parametrize("metric", [m for m in LOSSES if m != "agreement"])  # which is for emoji: below
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
    table = {(0.975, 1): 12.706, (0.95, 2): 2.920, (0.975, 3): 3.182, (0.95, 4): 2.132, (0.95, 7): 1.895, (0.975, 31): 2.040,
             (0.975, 159): 1.975, (0.9875, 15): 2.490}  # of any book  # fmt: skip
    for (confidence, freedom), value in table.items():
        assert student(confidence, freedom) == pytest.approx(value, abs=6e-4)
    assert student(0.5, 9) == pytest.approx(0, abs=1e-9) and student(0.05, 7) == pytest.approx(-student(0.95, 7))


def test_an_interval_holds_the_mean_as_often_as_it_says():
    plain = torch.randn(2000, 12, generator=torch.manual_seed(1), dtype=torch.float64)
    kept = [Loss("kid", row).below(0.95) > 0 for row in plain]
    inside = [Loss("kid", row).interval()[0] < 0 < Loss("kid", row).interval()[1] for row in plain]
    assert 0.94 < sum(kept) / 2000 < 0.965 and 0.94 < sum(inside) / 2000 < 0.97


def test_a_few_great_losses_among_small_ones_do_not_deceive():
    """Student's bound is above the mean of such losses in 94 of 100 cases where it says 98.75, Hall's in 97."""
    draws = torch.randn(1500, 160, generator=torch.manual_seed(0), dtype=torch.float64).exp()  # skewed, mean e^0.5
    above = {m: sum(Loss(m, row).below(0.9875) > math.exp(0.5) for row in draws) / 1500 for m in ("kid", "latent")}
    assert 0.96 < above["kid"] < 0.985 < above["latent"] < 1
    flat = Loss("latent", torch.cat([torch.full((99,), 0.01), torch.full((1,), 2.0)]).double())
    assert flat.interval()[0] == 0 and flat.below() > flat.mean + 2 * student(0.95, 99) * flat.values.std() / 10


def test_the_bound_solves_halls_cubic():
    two = Loss("kid", torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert two.below(0.95) == pytest.approx(0.5 + 6.3138 * 0.5, rel=1e-4)  # t of one degree of freedom; no skew
    values = torch.randn(40, generator=torch.manual_seed(0), dtype=torch.float64).exp()
    loss, gap = Loss("kid", values), values - values.mean()
    skew = ((gap**3).mean() / gap.square().mean() ** 1.5).item()
    u = (loss.mean - loss.below(0.95)) / values.std().item()
    cubic = u + skew * u**2 / 3 + skew**2 * u**3 / 27 + skew / (6 * 40)
    assert cubic == pytest.approx(-student(0.95, 39) / math.sqrt(40)) and skew > 0.5


def test_a_paired_bound_fears_two_more_as_bad_as_the_worst():
    values = 0.2 + 0.1 * torch.rand(60, generator=torch.manual_seed(0), dtype=torch.float64)
    values[7] = 0.9
    feared = torch.cat([values, torch.tensor([0.9, 0.9], dtype=torch.float64)])
    assert Loss("latent", values).below(0.95) == Loss("kid", feared).below(0.95) > Loss("kid", values).below(0.95)
    assert Loss("latent", torch.full((5,), 0.2).double()).below() == pytest.approx(0.2)  # all alike: nothing to fear


def test_the_reference_has_many_steps(trial):
    assert reference_of(trial.model).steps == 60 and reference_of(ornstein.load("digits-tokens")).steps == 64


def test_one_sample_bounds_nothing():
    assert Loss("latent", torch.ones(1, dtype=torch.float64)).below() == math.inf


def test_shares_that_changed_are_bounded_as_often_as_it_says():
    assert Loss("accuracy", torch.zeros(50, dtype=torch.float64)).below() == pytest.approx(1 - 0.05 ** (1 / 50))  # none seen
    u = torch.rand(1500, 160, generator=torch.manual_seed(0))
    for newly_wrong, newly_right in ((0.02, 0.0), (0.1, 0.02)):
        rows = (u < newly_wrong).double() - (u > 1 - newly_right).double()
        losses = [Loss("accuracy", row) for row in rows]
        above = sum(x.below(0.95) >= newly_wrong - newly_right for x in losses) / 1500
        assert 0.94 < above < 0.98
        below = sum(x.interval(0.9)[0] <= newly_wrong - newly_right for x in losses) / 1500
        assert above > 0.94 and below > 0.94
    worst = Loss("accuracy", torch.ones(30, dtype=torch.float64))
    assert worst.below() == pytest.approx(1) and 0.7 < worst.interval()[0] < 1


def test_pictures_that_are_all_alike_are_not_praised():
    """The Frechet distance of few pictures is least for those of little variety: the jackknife takes that out."""
    model = ornstein.load("digits")
    trial, real = Trial(model), real_pictures(model)[0]
    some = real[torch.randperm(len(real), generator=torch.manual_seed(0))[:64]]
    alike = real.mean(0) + 0.7 * (some - real.mean(0))
    loss = Loss("frechet", trial._further("frechet", alike, some))
    assert loss.interval()[0] > 0 and loss.n == 8
    assert trial._further("kid", some, some).abs().max() == 0


def test_unknown_and_too_few(trial, drawn):
    with pytest.raises(ornstein.OrnsteinError, match="Did you mean 'latent'"):
        trial.loss("latnet", drawn[3], 0)
    with pytest.raises(ornstein.OrnsteinError, match="too few for kid"):
        trial.loss("kid", drawn[3][:8], 0)
    with pytest.raises(ornstein.OrnsteinError, match="no classifier of the pictures of 'emoji'"):
        Trial(ornstein.load("emoji"), ["fox"]).check("accuracy", 9)
    with pytest.raises(ornstein.OrnsteinError, match="'12' is no digit"):
        Trial(trial.model, ["3", "12"]).check("accuracy", 2)
    with pytest.raises(ornstein.OrnsteinError, match="tokens, which are right or wrong"):
        Trial(ornstein.load("digits-tokens")).check("latent", 8)
    Trial(ornstein.load("digits-tokens")).check("accuracy", 8)


def test_losses_that_lean_are_not_promised_too_low():
    """Log-normal losses of heavy tail: Hall's bound holds the mean more often than Student's, with two more feared as often as
    said."""
    draws = (1.2 * torch.randn(3000, 64, generator=torch.manual_seed(2), dtype=torch.float64)).exp()
    truth = math.exp(1.2**2 / 2)
    held, feared = (sum(Loss(m, row).below(0.95) >= truth for row in draws) / 3000 for m in ("kid", "latent"))
    students = sum((row.mean() + student(0.95, 63) * row.std() / 8).item() >= truth for row in draws) / 3000
    assert students + 0.02 < held < 0.95 and 0.95 < feared < 0.99


def test_agreement_falls_where_pictures_show_something_else():
    model = ornstein.load("emoji")
    trial = Trial(model, ["red apple", "sleepy cat", "snowman", "pizza"], model.plan(steps=6), 4)
    truth = trial.truth(0, 4)
    assert trial.loss("agreement", truth, 0).values.abs().max() < 1e-6  # the same pictures
    other = trial.loss("agreement", truth.roll(1, 0), 0)  # each under another's caption
    judged = reward("agreement", model)
    cond = model.encode(trial.asked(4))
    assert torch.allclose(other.values, (judged(truth, cond) - judged(truth.roll(1, 0), cond)).double().cpu(), atol=1e-6)
    assert other.mean > 0.05 and other.n == 4 and other.metric == "agreement"
    with pytest.raises(ornstein.OrnsteinError, match="agreement|caption"):
        Trial(ornstein.load("digits")).check("agreement", 8)
