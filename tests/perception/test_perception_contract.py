"""What every perception keeps to, over all files of the room; and the diffusion classifier against Bayes."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.perception.diffusion_classifier import DiffusionClassifier
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

NAMES = [e.name for e in catalog.entries("perception")]
ALL = {"label": torch.arange(5)}


def bed(process=None, std=0.5):
    return Mixture.random(process or Flow(), dims=6, components=5, std=std)


def bayes(mixture, x):
    return torch.stack(
        [mixture.log_density(x, 0.0, {"label": torch.full((len(x),), k)}) for k in range(5)], 1
    ).log_softmax(1)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_neighbours_and_repeats(name):
    mixture, part = bed(), catalog.build("perception", name)
    x = mixture.sample(6, seed=1)
    together, again = part(mixture, x, ALL), part(mixture, x, ALL)
    alone = part(mixture, x[4:5], ALL, ids=[4])
    assert torch.equal(together.errors, again.errors) and torch.allclose(together.errors[4:5], alone.errors, atol=1e-10)
    assert together.label[4] == alone.label[0]


@pytest.mark.parametrize("name", NAMES)
def test_separate_classes_are_told_apart(name):
    mixture = bed(std=0.1)
    label = torch.arange(20) % 5
    x = mixture.sample(20, seed=2, cond={"label": label})
    assert torch.equal(catalog.build("perception", name)(mixture, x, ALL).label, label)


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_the_limit_is_the_exact_posterior(process):
    """-1/2 of the integral over logSNR of the noise's error is the log likelihood, in nats."""
    mixture = bed(process, std=0.9)
    x = mixture.sample(12, seed=4)
    got = DiffusionClassifier(((3000, 1),), logsnr=(-12.0, 12.0))(mixture, x, ALL).log_odds
    truth = bayes(mixture, x)
    likely = truth > -6
    assert (got - truth)[likely].abs().max() < 0.6 and (got - truth)[likely].abs().mean() < 0.15


def test_elimination_keeps_the_verdict_and_saves_rows():
    mixture = bed(std=0.5)
    x = mixture.sample(40, seed=5)
    full = DiffusionClassifier(((120, 1),))(mixture, x, ALL)
    few = DiffusionClassifier(((20, 3), (60, 2), (120, 1)))(mixture, x, ALL)
    assert full.rows == 600 and few.rows == 20 * 5 + 40 * 3 + 60 * 2
    assert (full.label == few.label).float().mean() > 0.9
    left = few.errors.isfinite()
    assert bool((left.sum(1) == 2).all()) and torch.allclose(few.errors[left], full.errors[left])
    assert bool(few.log_odds[~left].isinf().all()) and torch.allclose(
        few.log_odds.exp().sum(1), torch.ones(40).double()
    )


def test_candidates_share_their_noise_and_the_network_sees_each_pair_once():
    mixture, seen = bed(), []

    class Spy:
        process = mixture.process

        def __call__(self, x, t, cond=None, clock=None):
            seen.append((x.clone(), cond["label"].clone(), clock))
            return mixture(x, t, cond, clock)

    DiffusionClassifier(((2, 1),))(Spy(), mixture.sample(3, seed=1), ALL)
    x, label, clock = seen[0]
    assert label.tolist() == list(range(5)) * 3 and len(set(clock.ids)) == 15
    rows = x.reshape(3, 5, 6)
    assert bool((rows == rows[:, :1]).all()) and not torch.equal(seen[0][0], seen[1][0])
    seen.clear()
    DiffusionClassifier(((2, 1),), shared=False)(Spy(), mixture.sample(3, seed=1), ALL)
    rows = seen[0][0].reshape(3, 5, 6)
    assert not bool((rows == rows[:, :1]).flatten(1)[:, 6:].any())


def test_however_many_pairs_come_first_they_cover_the_range():
    times = DiffusionClassifier(((100, 1),), times="uniform")._times(bed())
    for n in (5, 10, 25, 50, 100):
        gaps = torch.cat([torch.zeros(1), times[:n].sort().values, torch.ones(1)]).diff()
        assert gaps.max() < 2.7 / n
    assert times.min() >= 1e-3 and times.max() <= 1


def test_errors_name_the_remedy():
    with pytest.raises(OrnsteinError, match="Did you mean 'logsnr'"):
        DiffusionClassifier(times="logsrn")
    for stages in (((10, 1), (5, 1)), ((10, 2),), ((10, 2), (20, 3)), ((0, 1),)):
        with pytest.raises(OrnsteinError, match="Pairs must rise"):
            DiffusionClassifier(stages)
