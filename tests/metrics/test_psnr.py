"""PSNR: closed forms."""

import math

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.psnr import PSNR


def test_known_values():
    x = torch.zeros(3, 1, 4, 4)
    assert PSNR()(x + 0.02, x).value == pytest.approx(40.0, abs=1e-5)  # 10 log10(4 / 0.0004)
    assert PSNR(low=0.0, high=1.0)(x + 0.1, x).value == pytest.approx(20.0, abs=1e-5)
    same = PSNR()(x, x)
    assert same.value == same.low == same.high == math.inf and same.unit == "dB" and same.better == "higher"


def test_mean_of_pairs_and_pooled():
    x = torch.zeros(2, 1, 4, 4)
    y = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.02)])
    assert PSNR()(y, x).value == pytest.approx(30.0, abs=1e-5)
    pooled = PSNR(pooled=True)(y, x)
    assert pooled.value == pytest.approx(10 * math.log10(4 / 0.0202), abs=1e-5) and pooled.name == "psnr-pooled"
    assert pooled.low < pooled.value < pooled.high
    half = torch.cat([x[:1], y[1:]])
    assert PSNR()(half, x).value == math.inf and PSNR(pooled=True)(half, x).value < 50
    assert not PSNR()(y, x).better_than(PSNR()(y, x))


def test_range_must_be_one():
    with pytest.raises(OrnsteinError, match="Give low < high"):
        PSNR(low=1.0, high=1.0)
