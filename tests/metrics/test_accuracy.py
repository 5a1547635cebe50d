"""Class accuracy: real digits, wrong labels, exact bounds, wording."""

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.data.digits import Digits
from ornstein.metrics.accuracy import Accuracy
from ornstein.metrics.layers.measure import proportion

DATA = Digits("all")
X, Y = DATA.images()[::5], DATA.labels[::5]


def test_real_digits_reach_the_floor_and_wrong_labels_do_not():
    found = Accuracy()(X, Y)
    assert found.value == pytest.approx(found.floor) and found.value > 0.97 and found.extractor == "digits"
    assert (found.low, found.high) == proportion(round(found.value * 360), 360)
    assert Accuracy()(X, (Y + 1) % 10).value < 0.02
    assert Accuracy(level=0.5)(X, Y).low > found.low


def test_one_image_is_enough_and_batches_agree():
    one = Accuracy()(X[:1], Y[:1])
    assert one.value == 1 and one.low == pytest.approx(0.025) and one.high == 1
    parts = [Accuracy()(X[i : i + 40], Y[i : i + 40]).value for i in range(0, 360, 40)]
    assert sum(parts) / 9 == pytest.approx(Accuracy()(X, Y).value)


def test_wording():
    with pytest.raises(OrnsteinError, match=r"labels \[5\] do not fit 10 generated images. Give one integer label"):
        Accuracy()(X[:10], Y[:5])
    for labels in (Y[:10].float(), Y[:10] + 10, Y[:10] - 10):
        with pytest.raises(OrnsteinError, match="labels are not integers from 0 to 9"):
            Accuracy()(X[:10], labels)
    with pytest.raises(OrnsteinError, match=r"cannot see images of \[1, 16, 16\]"):
        Accuracy()(torch.zeros(2, 1, 16, 16), Y[:2])
    with pytest.raises(OrnsteinError, match="between 0 and 1"):
        Accuracy(level=95)
