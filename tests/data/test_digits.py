"""Digits: equal to scikit-learn's, and split within each class."""

import pytest
import torch

from ornstein.data.digits import Digits


def test_equal_to_scikit_learn():
    load = pytest.importorskip("sklearn.datasets").load_digits
    theirs, ours = load(), Digits("all")
    assert torch.equal(ours.images()[:, 0], torch.from_numpy(theirs.images).float() / 8 - 1)
    assert ours.labels.tolist() == theirs.target.tolist()


def test_a_fifth_of_each_class_is_held_out():
    every, test = Digits("all").labels.bincount(), Digits("test").labels.bincount()
    assert test.tolist() == [n // 5 for n in every.tolist()]


def test_batch():
    data = Digits()
    batch = data.batch(torch.tensor([5, 0]))
    assert batch["images"].shape == (2, 1, 8, 8) and batch["labels"].tolist() == data.labels[[5, 0]].tolist()
