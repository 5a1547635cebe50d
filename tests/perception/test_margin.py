"""Dropping candidates of the diffusion classifier sample by sample, once there is no doubt."""

import pytest
import torch

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.perception.diffusion_classifier import DiffusionClassifier
from ornstein.processes.flow import Flow
from ornstein.testbeds import Mixture

ALL = {"label": torch.arange(5)}


@pytest.mark.parametrize("shared", [True, False])
def test_the_error_is_the_mean_over_pairs_of_what_is_missing_from_the_noise(shared):
    mixture, way = bed(0.7), DiffusionClassifier(((3, 1),), shared=shared, seed=6)
    x, found = mixture.sample(2, seed=1), 0.0
    for k, t in enumerate(way._times(mixture)):
        source = NoiseSource.of(6, (0, 1))
        for j in range(5):
            noise = source.draw(k if shared else 5 * k + j, x)
            said = mixture(mixture.process.corrupt(x, noise, float(t)), float(t), {"label": torch.tensor([j, j])})
            found = found + torch.eye(5)[j] * (said.noise - noise).square().sum(1, keepdim=True).double() / 3
    assert torch.allclose(way(mixture, x, ALL).errors, found, rtol=1e-5)


def bed(std):
    return Mixture.random(Flow(), dims=6, components=5, std=std)


def test_a_margin_drops_by_doubt_sample_by_sample():
    mixture = bed(std=0.5)
    x = mixture.sample(40, seed=5)
    full = DiffusionClassifier(((120, 1),))(mixture, x, ALL)
    few = DiffusionClassifier(((120, 1),), margin=3.0)(mixture, x, ALL)
    assert (full.label == few.label).float().mean() > 0.9
    assert len(set(few.spent.tolist())) > 5 and few.spent.double().mean() < 0.5 * 600 and few.rows == few.spent.max()
    alone = DiffusionClassifier(((120, 1),), margin=3.0)(mixture, x[7:8], ALL, ids=[7])
    assert alone.spent[0] == few.spent[7] and alone.label[0] == few.label[7]
    never = DiffusionClassifier(((30, 1),), margin=1e9)(mixture, x, ALL)
    plain = DiffusionClassifier(((30, 1),))(mixture, x, ALL)
    assert torch.equal(never.errors, plain.errors) and never.rows == plain.rows == 150


def test_the_margin_is_in_standard_errors_of_the_paired_excess():
    way = DiffusionClassifier(((8, 1),), margin=2.0)
    seen = torch.zeros(4, 1, 3)
    seen[:, 0, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])  # mean 2.5, deviation 1.29, standard error 0.645: 3.9 of them
    seen[:, 0, 2] = torch.tensor([-3.0, 3.0, -2.0, 3.0])  # 0.16 of them
    left = torch.ones(1, 3, dtype=torch.bool)
    assert way._beaten(seen, left, seen.mean(0)).tolist() == [[False, True, False]]
    assert DiffusionClassifier(((8, 1),), margin=4.0)._beaten(seen, left, seen.mean(0)).sum() == 0


def test_who_is_left_alone_costs_nothing_more():
    mixture = bed(std=0.05)
    x = mixture.sample(5, seed=3)
    said = DiffusionClassifier(((200, 1),), margin=1.0, least=4)(mixture, x, ALL)
    assert said.rows < 80 and bool((said.errors.isfinite().sum(1) == 1).all())
    assert torch.equal(said.log_odds.gather(1, said.label[:, None]), torch.zeros(5, 1, dtype=torch.float64))
    with pytest.raises(OrnsteinError, match="shared pairs"):
        DiffusionClassifier(margin=2.0, shared=False)
