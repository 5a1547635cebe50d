"""Learned timestep weights of the diffusion classifier: even without labels, right where the right weights are known."""

import pytest
import torch

from ornstein.core.artefact import Artefact
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.perception.diffusion_classifier import DiffusionClassifier
from ornstein.perception.layers.pairs import places
from ornstein.perception.weighted_classifier import WeightedClassifier, _weights, fit
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

ALL = {"label": torch.arange(5)}


def bed(std=0.5, process=None):
    return Mixture.random(process or Flow(), dims=6, components=5, std=std)


@pytest.mark.parametrize("times", ["logsnr", "uniform"])
def test_without_learning_it_is_the_diffusion_classifier(times):
    mixture = bed()
    x = mixture.sample(12, seed=1)
    mine = WeightedClassifier("", 9, times, seed=3)(mixture, x, ALL)
    plain = DiffusionClassifier(((9, 1),), times, seed=3)(mixture, x, ALL)
    assert torch.allclose(mine.errors, plain.errors, rtol=1e-14) and torch.equal(mine.label, plain.label)
    assert torch.allclose(mine.log_odds, plain.log_odds) and mine.rows == plain.rows == 45


def test_weights_are_positive_of_mean_one_and_a_polynomial_of_the_place():
    w = _weights(torch.tensor([0.5, -0.3], dtype=torch.float64), 11)
    assert bool((w > 0).all()) and w.mean() == pytest.approx(1)
    p = 2 * places(11) - 1
    assert torch.allclose(w.log() - w.log()[0], 0.5 * (p - p[0]) - 0.3 * ((2 * p**2 - 1) - (2 * p[0] ** 2 - 1)))
    assert torch.equal(_weights(torch.zeros(3, dtype=torch.float64), 7), torch.ones(7, dtype=torch.float64))


class HalfBlind:
    """Knows the labels at low noise; at high noise it takes each for its neighbour, and exaggerates."""

    def __init__(self):
        self.process, self.good = VP(), bed(0.8, VP())

    def __call__(self, x, t, cond=None, clock=None):
        said = self.good(x, t, cond, clock)
        if float(said.levels.logsnr) > 0:
            return said
        other = self.good(x, t, {"label": (cond["label"] + 1) % 5}, clock)
        return Prediction(x, said.levels, "noise", other.noise + 4 * (other.noise - said.noise))


def test_it_learns_to_look_where_the_model_knows():
    model = HalfBlind()
    label = torch.arange(100) % 5
    x = model.good.sample(100, seed=2, cond={"label": label})
    even = WeightedClassifier("", 12, logsnr=(-6.0, 6.0))
    learned = WeightedClassifier(fit(model, x[:40], label[:40], ALL, even, steps=100))
    before, after = ((w(model, x[40:], ALL).label == label[40:]).double().mean().item() for w in (even, learned))
    assert after > before + 0.2
    low = places(12) > 0.5
    assert learned.weights()[low].mean() > 2 * learned.weights()[~low].mean()


def test_what_is_learned_repeats_is_kept_and_is_refused_elsewhere(tmp_path):
    mixture = bed()
    label = torch.arange(20) % 5
    x = mixture.sample(20, seed=2, cond={"label": label})
    way = WeightedClassifier("", 6, "uniform", seed=4)
    found, again = fit(mixture, x, label, ALL, way), fit(mixture, x, label, ALL, way)
    assert torch.equal(found.arrays["coefficients"], again.arrays["coefficients"])
    loaded = WeightedClassifier(found.save(tmp_path / "w.safetensors"))
    assert (loaded.pairs, loaded.times, loaded.seed, loaded.logsnr) == (6, "uniform", 4, (-10.0, 10.0))
    assert torch.equal(loaded(mixture, x, ALL).errors, WeightedClassifier(found)(mixture, x, ALL).errors)
    odds = loaded(mixture, x, ALL).log_odds
    assert torch.allclose(odds.exp().sum(1), torch.ones(20, dtype=torch.float64))
    with pytest.raises(OrnsteinError, match="calibrated for process"):
        loaded(bed(process=VP()), x, ALL)
    other = Denoiser(torch.nn.Linear(6, 6), Flow())
    with pytest.raises(OrnsteinError, match="calibrated for model"):
        loaded(other, x, ALL)


def test_much_decay_leaves_the_weights_even():
    mixture = bed()
    label = torch.arange(20) % 5
    x = mixture.sample(20, seed=2, cond={"label": label})
    strict = WeightedClassifier(fit(mixture, x, label, ALL, decay=1e4)).weights()
    loose = WeightedClassifier(fit(mixture, x, label, ALL, decay=1e-3)).weights()
    assert (strict - 1).abs().max() < 0.02 < (loose - 1).abs().max()


def test_errors_name_the_remedy():
    x = bed().sample(4, seed=0)
    for act, words in (
        (lambda: WeightedClassifier("", 0), "at least one"),
        (lambda: WeightedClassifier("", 4, "logsrn"), "Did you mean 'logsnr'"),
        (lambda: WeightedClassifier(Artefact("gate", {})), "is of 'gate'"),
        (lambda: fit(bed(), x, torch.tensor([0, 1]), ALL), "2 labels for 4 samples"),
    ):
        with pytest.raises(OrnsteinError, match=words):
            act()
