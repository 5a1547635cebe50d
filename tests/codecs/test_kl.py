"""KL: it learns, its statistics are applied both ways, noise is given and not drawn, files go round."""

import pytest
import torch

from ornstein.codecs.kl import KL, load
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.recipes.train_kl import Recipe, train_kl


def digits(split="train"):
    return catalog.build("data", "digits", split=split).images()[:300]


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return train_kl(digits(), KL(1, 2, 2, 8, 0), Recipe(steps=60, batch=32, lr=4e-3), digits("test"))


def test_it_learns_and_states_its_error(trained):
    torch.manual_seed(0)
    raw = KL(1, 2, 2, 8, 0).measure(digits(), digits("test"))
    assert trained.error < 0.8 * raw.error
    x = digits("test")
    rms = (trained.decode(trained.encode(x)) - x).square().mean().sqrt().item()
    assert rms == pytest.approx(trained.error, rel=1e-4)
    assert trained.encode(x).std().item() == pytest.approx(1, abs=0.15)
    assert not trained.training and not any(p.requires_grad for p in trained.parameters())


def test_training_repeats_and_leaves_the_random_state():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = train_kl(digits(), recipe=Recipe(steps=2, batch=4))
    assert torch.equal(state, torch.get_rng_state())
    two = train_kl(digits(), recipe=Recipe(steps=2, batch=4))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert one.config["channels"] == 1


def test_the_kl_term_draws_the_posterior_to_the_unit_normal():
    torch.manual_seed(0)
    codec = train_kl(digits(), KL(1, 2, 2, 8, 0), Recipe(steps=40, batch=32, lr=4e-3, kl=10.0))
    mean, log_variance = codec.posterior(digits())
    assert mean.square().mean() < 0.02 and log_variance.abs().mean() < 0.1


def test_statistics_are_applied_both_ways(trained):
    x = digits()[:5]
    mean, _ = trained.posterior(x)
    z = trained.encode(x)
    m, d = trained.latent_mean[:, None, None], trained.latent_std[:, None, None]
    assert torch.allclose(z * d + m, mean, atol=1e-5) and not torch.allclose(z, mean, atol=1e-2)
    assert torch.allclose(trained.decode(z), trained.decoder(mean), atol=1e-5)


def test_noise_is_an_argument(trained):
    x = digits()[:5]
    z, (_, log_variance) = trained.encode(x), trained.posterior(x)
    noise = torch.randn(z.shape)
    drawn = trained.encode(x, noise)
    want = (log_variance / 2).exp() * noise / trained.latent_std[:, None, None]
    assert torch.allclose(drawn - z, want, atol=1e-5) and torch.equal(trained.encode(x, noise * 0), z)


def test_without_statistics_nothing_is_coded():
    for use in (lambda c: c.encode(digits()[:2]), lambda c: c.decode(torch.zeros(1, 4, 2, 2)), lambda c: c.save("x")):
        with pytest.raises(OrnsteinError, match="has no statistics.*train_kl"):
            use(KL(1))


def test_files_go_round(trained, tmp_path):
    again = load(trained.save(tmp_path / "kl.safetensors"))
    x = digits()[:5]
    assert torch.equal(again.encode(x), trained.encode(x)) and again.error == trained.error
    assert torch.equal(again.decode(again.encode(x)), trained.decode(trained.encode(x)))
    (tmp_path / "bad").write_bytes(b"no")
    with pytest.raises(OrnsteinError, match="is no KL codec"):
        load(tmp_path / "bad")


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_every_factor(factor):
    c = KL(4, 3, factor, 4, 1).measure(torch.randn(2, 4, 16, 8))
    assert c.encode(torch.randn(2, 4, 16, 8)).shape == (2, 3, 16 // factor, 8 // factor)
    for bad in ({"factor": 3}, {"factor": 0}, {"width": 6}):
        with pytest.raises(OrnsteinError, match="KL with factor"):
            KL(**bad)


def test_bad_data_is_refused():
    for bad in (torch.zeros(1, 1, 8, 8), torch.zeros(4, 8, 8), torch.full((4, 1, 8, 8), float("nan"))):
        with pytest.raises(OrnsteinError, match="cannot train a codec"):
            train_kl(bad)
