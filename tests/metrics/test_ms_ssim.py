"""MS-SSIM: SSIM's terms of halved images multiplied by hand, scales that fit, known values."""

import pytest
import torch
import torch.nn.functional as F

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers.windows import gaussian, similarity
from ornstein.metrics.ms_ssim import MSSSIM
from ornstein.metrics.ssim import SSIM


def pair(side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, side, side, generator=generator) * 2 - 1
    return x, (0.7 * x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def test_the_terms_by_hand():
    x, y = pair()
    a, b = x.double() + 1, y.double() + 1
    kernel, terms = gaussian(5, 1.5 * 5 / 11), []
    for _ in range(3):
        terms.append([t.flatten(1).mean(1) for t in similarity(a, b, kernel, 0.01, 0.03, 2.0)])
        both = torch.stack(similarity(a, b, kernel, 0.01, 0.03, 2.0)).prod(0).flatten(1).mean(1)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    w = torch.tensor([0.0448, 0.2856, 0.3001])
    w = w / w.sum()
    want = terms[0][1] ** w[0] * terms[1][1] ** w[1] * both ** w[2]
    found = MSSSIM(window=5)
    assert torch.allclose(found.each(x, y), want, atol=1e-12) and found(x, y).name == "ms-ssim-3x5"


def test_one_scale_is_ssim():
    x, y = pair()
    assert torch.allclose(MSSSIM(scales=1).each(x, y), SSIM().each(x, y)[0], atol=1e-12)


def test_known_values_and_names():
    x, y = pair()
    assert MSSSIM()(x, x).value == pytest.approx(1) and MSSSIM()(x, y).value == pytest.approx(MSSSIM()(y, x).value)
    assert MSSSIM()(x, -x).value < 0.05
    assert MSSSIM(span=1.0)(x / 2, y / 2).value == pytest.approx(MSSSIM()(x, y).value, abs=1e-9)
    assert [MSSSIM().fit(s, s) for s in (8, 21, 22, 44, 175, 176, 500)] == [
        (7, 1), (11, 1), (11, 2), (11, 3), (11, 4), (11, 5), (11, 5)]  # fmt: skip
    big = torch.rand(2, 1, 176, 176, generator=torch.Generator().manual_seed(0))
    assert MSSSIM()(big, big.flip(3)).name == "ms-ssim"
    assert MSSSIM()(x, y).name == "ms-ssim-2x11"


def test_errors():
    for settings in ({"scales": 6}, {"scales": 0}, {"window": 4}, {"sigma": 0.0}, {"span": 0.0}):
        with pytest.raises(OrnsteinError):
            MSSSIM(**settings)
