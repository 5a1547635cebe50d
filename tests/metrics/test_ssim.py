"""SSIM: the paper's formula by another route, closed forms, small images."""

import numpy as np
import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.ssim import SSIM, gaussian


def pair(seed=0, shape=(3, 2, 20, 23)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator) * 2 - 1
    return x, (0.7 * x + 0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1)


def test_parity_with_scipys_gaussian_filter():
    from scipy.ndimage import gaussian_filter

    x, y = pair()
    a, b = ((v.double().numpy() + 1) for v in (x, y))

    def smooth(v):
        return gaussian_filter(v, (0, 0, 1.5, 1.5), truncate=3.5)[:, :, 5:-5, 5:-5]

    ma, mb = smooth(a), smooth(b)
    va, vb, ab = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    truth = (2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert np.allclose(SSIM().each(x, y)[0].numpy(), truth.mean((1, 2, 3)), atol=1e-10)


def test_known_values():
    x, y = pair()
    assert SSIM()(x, x).value == pytest.approx(1.0, abs=1e-12)
    assert SSIM()(x, y).value == pytest.approx(SSIM()(y, x).value, abs=1e-12)
    dark, light = torch.full((2, 1, 16, 16), -1.0), torch.full((2, 1, 16, 16), 1.0)
    assert SSIM()(dark, light).value == pytest.approx(4e-4 / (4 + 4e-4), rel=1e-9)  # luminance term alone
    assert SSIM()(x, -x).value < 0


def test_the_scale_of_the_range_does_not_matter():
    x, y = pair()
    unit = SSIM(span=1.0)((x + 0) / 2, (y + 0) / 2).value
    assert unit == pytest.approx(SSIM()(x, y).value, abs=1e-9)


def test_small_images_shrink_the_window_and_say_so():
    x, y = pair(shape=(4, 1, 8, 12))
    found = SSIM()(x, y)
    assert found.name == "ssim-7" and found.value == pytest.approx(SSIM(window=7, sigma=1.5 * 7 / 11)(x, y).value)
    with pytest.raises(OrnsteinError, match="different name"):
        found.better_than(SSIM()(*pair()))
    assert SSIM()(*pair(shape=(2, 1, 11, 11))).name == "ssim"
    assert SSIM()(*pair(shape=(2, 1, 1, 9))).name == "ssim-1"


def test_window_sums_to_one_and_is_odd():
    assert gaussian(11, 1.5).sum().item() == pytest.approx(1.0)
    assert torch.equal(gaussian(5, 1.0), gaussian(5, 1.0).flip(0))
    with pytest.raises(OrnsteinError, match="odd"):
        SSIM(window=10)
    with pytest.raises(OrnsteinError, match="above 0"):
        SSIM(sigma=0.0)
