"""Perceptual distance: the formula by hand, bounds, gradient, extractors without maps."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers.features import Extractor
from ornstein.metrics.perceptual import Perceptual


def pair(side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 5, 1, side, side, generator=generator) * 2 - 1


def test_the_formula_on_maps_that_are_known():
    twice = Extractor("two", lambda x: x.flatten(1), lambda x: [torch.cat([x, 0 * x + 3], 1), torch.cat([0 * x, x], 1)])
    x, y = torch.full((2, 1, 2, 2), 1.0), torch.full((2, 1, 2, 2), -1.0)
    x[:, :, 0] = y[:, :, 0] = 0.5
    first = ((2 / 10**0.5) ** 2) * 0.5  # (1, 3) and (-1, 3), both of length sqrt(10), in half of the places
    second = 4 * 0.5
    assert Perceptual(twice)(x, y).value == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("name,side", [("random-conv", 16), ("digits", 8)])
def test_zero_for_the_same_symmetric_and_bounded(name, side):
    x, y = pair(side)
    metric = Perceptual(name)
    found = metric(x, y)
    assert metric(x, x).value == 0 and found.better == "lower" and found.extractor == name
    assert found.value == pytest.approx(metric(y, x).value, rel=1e-6) and 0 < found.value <= 2


def test_contrast_of_features_is_normalised_away():
    x, _ = pair()
    metric = Perceptual()
    assert metric(0.5 * x, x).value < 1e-9, "random-conv has no bias: scaling an image scales its features"


def test_gradient_reaches_the_image():
    x, y = pair()
    x.requires_grad_(True)
    Perceptual().each(x, y).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


def test_pixels_have_no_maps():
    with pytest.raises(OrnsteinError, match="'pixels' has no feature maps. Choose one of random-conv, "):
        Perceptual("pixels")(*pair())
