"""Pixel: bit-exact as it stands; statistics and folding are undone."""

import pytest
import torch

from ornstein.codecs.pixel import Pixel
from ornstein.core.errors import OrnsteinError


def test_the_default_is_the_identity():
    x = torch.randn(2, 3, 5, 7)
    assert Pixel().encode(x) is x and Pixel().decode(x) is x and Pixel().error == 0


def test_statistics_and_folding():
    c, x = Pixel(0.2, 0.5, 2), torch.rand(4, 3, 8, 6) * 2 - 1
    z = c.encode(x)
    assert z.shape == (4, 12, 4, 3) == c.latent_shape((4, 3, 8, 6))
    assert torch.allclose(z[:, 1], (x[:, 0, 0::2, 1::2] - 0.2) / 0.5)
    assert (c.decode(z) - x).abs().max() <= c.error


def test_what_does_not_fit_is_refused():
    with pytest.raises(OrnsteinError, match="picture of 7 x 8"):
        Pixel(factor=2).encode(torch.zeros(1, 1, 7, 8))
    with pytest.raises(OrnsteinError, match="cannot decode"):
        Pixel(factor=2).decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(OrnsteinError, match="std=0"):
        Pixel(std=0)
