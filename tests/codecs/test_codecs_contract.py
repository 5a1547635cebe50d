"""What every codec keeps to, over all files of the room."""

import math

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

NAMES = [e.name for e in catalog.entries("codecs")]
SMOOTH = [n for n in NAMES if not getattr(catalog.load("codecs", n), "discrete", False)]  # whose latents are no tokens


def digits(split="train"):
    return catalog.build("data", "digits", split=split).images()[:200]


def codec(name):
    """As the catalog builds it; one that learns from data measures itself on digits."""
    part = catalog.load("codecs", name)
    if not issubclass(part, nn.Module):
        return part()
    return part(channels=1, factor=2, width=8).eval().requires_grad_(False).measure(digits())


def test_the_room_is_not_empty():
    assert {"pixel", "kl"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_go_round(name):
    c = codec(name)
    for size in ((8, 8), (4, 12), (16, 8)):
        x = torch.randn(3, 1, *size)
        z = c.encode(x)
        assert tuple(z.shape) == c.latent_shape(tuple(x.shape)) and c.decode(z).shape == x.shape
        assert c.latent_shape((1, *size)) == tuple(z.shape[1:]), "one sample's shape too"
        assert z.ndim == c.n_dim + 2


@pytest.mark.parametrize("name", NAMES)
def test_the_stated_error_is_met_on_held_out_data(name):
    c, x = codec(name), digits("test")
    rms = (c.decode(c.encode(x)) - x).square().mean().sqrt().item()
    assert math.isfinite(c.error) and rms <= 1.25 * c.error + 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_random_and_samples_do_not_depend_on_their_neighbours(name):
    c, x = codec(name), digits()[:4]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    z = c.encode(x)
    back = c.decode(z)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(c.encode(x), z)
    assert torch.allclose(c.encode(x[2:3]), z[2:3], atol=1e-5)
    assert torch.allclose(c.decode(z[2:3]), back[2:3], atol=1e-5)
    loud = torch.cat([x[:1] * 50, x[1:]])
    assert torch.allclose(c.encode(loud)[1:], z[1:], atol=1e-5)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_pass(name):
    c = codec(name)
    x = digits()[:2].clone().requires_grad_(True)
    c.decode(c.encode(x)).square().sum().backward()
    assert x.grad.abs().sum() > 0 and x.grad.isfinite().all()


@pytest.mark.parametrize("name", [n for n in SMOOTH if n != "pixel"])
def test_wrong_sizes_are_refused(name):
    c = codec(name)
    for shape in ((2, 1, 9, 8), (2, 3, 8, 8), (2, 1, 8, 0), (8, 8)):
        with pytest.raises(OrnsteinError, match="cannot take"):
            c.encode(torch.zeros(shape))
    with pytest.raises(OrnsteinError, match="cannot decode"):
        c.decode(torch.zeros(2, 7, 4, 4))


@pytest.mark.parametrize("name", [n for n in SMOOTH if n != "pixel"])
def test_latents_have_unit_size_per_channel(name):
    z = codec(name).encode(digits())
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), atol=1e-3)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(z.shape[1]), atol=1e-3)
