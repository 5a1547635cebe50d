"""Latent error: by hand, in any shape and scale, quantiles with exact intervals."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.latent import LatentError, relative
from ornstein.metrics.layers.measure import order_interval


def test_by_hand():
    r = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 2.0]])
    assert relative(g, r).tolist() == [0.0, 0.5, 2.0]
    found = LatentError()(g, r)
    assert found.value == pytest.approx(2.5 / 3) and found.better == "lower" and found.name == "latent-error"
    assert LatentError()(1000 * g, 1000 * r).value == pytest.approx(found.value)
    video = torch.randn(4, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert LatentError()(1.5 * video, video).value == pytest.approx(0.5)


def test_quantiles_and_their_exact_interval():
    from scipy.stats import binom

    for n, q in ((40, 0.5), (40, 0.9), (101, 0.25)):
        value, low, high = order_interval(torch.arange(1.0, n + 1), q)
        inside = sum(binom.pmf(k, n, q) for k in range(int(low), int(high)))  # the quantile lies between two ranks
        assert 0.95 <= inside <= 0.99 and low < value < high and value == -(-n * q // 1)
    g = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    found = LatentError(quantile=0.9)(2 * g, g + 0.1, again=3 * g)
    assert found.name == "latent-error-q0.9" and found.low <= found.value <= found.high and found.floor > found.value
    with pytest.raises(OrnsteinError, match="different name"):
        found.better_than(LatentError()(g, 2 * g))
    assert order_interval(torch.tensor([1.0, 2.0]), 0.5) == (1.0, 1.0, 2.0)


def test_errors():
    x = torch.ones(3, 2)
    with pytest.raises(OrnsteinError, match="all zeros.*a length"):
        LatentError()(x, x * torch.tensor([[1.0], [0.0], [1.0]]))
    with pytest.raises(OrnsteinError, match="quantile=1"):
        LatentError(quantile=1.0)
    with pytest.raises(OrnsteinError, match="do not pair"):
        LatentError()(torch.ones(3), torch.ones(3))
