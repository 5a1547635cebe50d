"""Classes: labels by number and by name, the null index, refusals with their remedy."""

import pytest
import torch

from ornstein.conditioning.classes import Classes
from ornstein.core.errors import OrnsteinError


def test_labels_by_number_name_and_tensor():
    part = Classes(3, ("cat", "dog", "owl"))
    assert part(["owl", 0, torch.tensor(1)])["label"].tolist() == [2, 0, 1]
    assert part(torch.tensor([2, 1]))["label"].tolist() == [2, 1]
    assert part.null(2)["label"].tolist() == [3, 3]


@pytest.mark.parametrize(
    "given, words",
    [(3, r"label 3 is outside 0\.\.2.*null\(batch\)"), (-1, "label -1 is outside"), ("dgo", "Did you mean 'dog'"),
     (1.0, "no class label"), (True, "no class label")],
)  # fmt: skip
def test_what_is_no_label_is_refused(given, words):
    with pytest.raises(OrnsteinError, match=words):
        Classes(3, ("cat", "dog", "owl"))([given])


def test_names_must_be_as_many_as_the_classes():
    with pytest.raises(OrnsteinError, match="2 different names for 3 classes"):
        Classes(3, ("cat", "dog", "dog"))
    with pytest.raises(OrnsteinError, match="classes=0"):
        Classes(0)
