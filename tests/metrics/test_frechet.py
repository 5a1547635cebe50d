"""Frechet distance: closed forms, parity with scipy's matrix root, singular covariances, interval."""

import numpy as np
import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.frechet import Frechet, between, compact, covariance, frechet_distance


def spd(d, seed):
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T


def test_closed_forms():
    zero, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    assert frechet_distance(zero, eye, zero + 2, eye) == pytest.approx(12.0, abs=1e-12)
    assert frechet_distance(zero, 4 * eye, zero, 9 * eye) == pytest.approx(3.0, abs=1e-12)  # D (3 - 2)^2
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 2.0]).double()
    assert frechet_distance(zero, a.diag(), zero, b.diag()) == pytest.approx(4 + 1 + 2, abs=1e-12)


def test_parity_with_scipy_sqrtm():
    from scipy.linalg import sqrtm

    for seed in range(3):
        s, t, m = spd(12, seed), spd(12, seed + 10), torch.linspace(0, 1, 12, dtype=torch.float64)
        root = np.real(sqrtm((s @ t).numpy()))
        truth = (m @ m + s.trace() + t.trace()).item() - 2 * np.trace(root)
        assert frechet_distance(m, s, 0 * m, t) == pytest.approx(truth, rel=1e-9)
        assert frechet_distance(0 * m, t, m, s) == pytest.approx(truth, rel=1e-9)


def test_invariances_and_identity():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, 5, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(spd(5, 3)).Q
    assert between(x @ turn + 7, y @ turn + 7) == pytest.approx(between(x, y), rel=1e-9)
    assert between(3 * x, 3 * y) == pytest.approx(9 * between(x, y), rel=1e-9)
    assert between(x, x) == pytest.approx(0, abs=1e-7)
    assert torch.allclose(covariance(x), torch.cov(x.T), atol=1e-12)


def test_fewer_samples_than_dimensions_stay_real():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 10, 50, generator=generator, dtype=torch.float64)
    product = (covariance(x) @ covariance(y)).numpy()
    truth = (x.mean(0) - y.mean(0)).square().sum() + covariance(x).trace() + covariance(y).trace()
    truth = truth.item() - 2 * np.sqrt(np.clip(np.linalg.eigvals(product).real, 0, None)).sum()
    assert between(x, y) == pytest.approx(truth, rel=1e-5)


def test_the_space_of_few_samples_loses_nothing():
    x, y = torch.randn(2, 12, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    a, b = compact(x, y)
    assert a.shape == (12, 24) and between(a, b) == pytest.approx(between(x, y), rel=1e-6)
    assert between(a[:6], b[6:]) == pytest.approx(between(x[:6], y[6:]), rel=1e-6)
    assert compact(x[:, :5], y[:, :5])[0].shape == (12, 5)


def test_the_floor_is_real_against_real_and_falls_with_more_samples():
    x = torch.randn(800, 6, generator=torch.Generator().manual_seed(0))
    metric = Frechet("precomputed:gauss", rounds=10)
    small, large = metric(x[:50] + 1, x[50:150]).floor, metric(x[:50] + 1, x[150:]).floor
    assert 0 < large < small


def test_the_interval_covers_the_mean_of_the_estimate():
    generator, found = torch.Generator().manual_seed(0), []
    metric = Frechet("precomputed:gauss", rounds=20)
    for _ in range(60):
        x, y = torch.randn(2, 80, 3, generator=generator)
        found.append(metric(1.5 * x + 0.5, y))
    mean = sum(f.value for f in found) / len(found)
    assert 50 <= sum(f.low <= mean <= f.high for f in found) <= 60
    assert all(f.high - f.low < 3 * mean for f in found)


def test_rounds_are_enough():
    with pytest.raises(OrnsteinError, match="at least 10"):
        Frechet(rounds=2)
