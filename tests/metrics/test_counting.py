"""Counting: connected parts by another route, composed scenes, accuracy by number, errors."""

import numpy as np
import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.counting import Counting
from ornstein.metrics.layers.measure import proportion
from ornstein.metrics.layers.scenes import components, scenes

COUNTS = torch.arange(0, 10).repeat(8)


def test_connected_parts_as_scipy_counts_them():
    from scipy.ndimage import label

    x = torch.rand(20, 1, 13, 17, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for least, threshold in ((1, 0.0), (3, 0.4)):
        for image, found in zip(x, components(x, threshold, least).tolist()):
            parts, number = label(image[0].numpy() > threshold, np.ones((3, 3)))
            assert found == sum((parts == k).sum() >= least for k in range(1, number + 1))
    spiral = -torch.ones(1, 1, 7, 7)
    for row, cols in ((0, range(7)), (2, range(5)), (4, range(2, 5)), (6, range(7))):
        spiral[0, 0, row, list(cols)] = 1
    spiral[0, 0, 1:7, 6] = spiral[0, 0, 3:7, 0] = 1
    assert components(spiral).tolist() == [label(spiral[0, 0].numpy() > 0, np.ones((3, 3)))[1]]


def test_scenes_hold_what_they_say():
    for side in (24, 32, 27):
        x = scenes(COUNTS, side, seed=3)
        assert x.shape == (80, 1, side, side) and x.min() >= -1 and x.max() <= 1 and torch.equal(components(x), COUNTS)
    assert torch.equal(scenes(COUNTS, 24, 1), scenes(COUNTS, 24, 1)) and not torch.equal(scenes(COUNTS, 24, 1), scenes(COUNTS, 24))
    with pytest.raises(OrnsteinError, match="10 discs in 9 cells"):
        scenes(torch.tensor([10]), 24)


def test_accuracy_overall_and_by_number():
    x, asked = scenes(COUNTS, 24), COUNTS.clone()
    asked[:10] += 1  # one picture of each number is wrong
    found = Counting()(x, asked)
    assert found.value == 70 / 80 and (found.low, found.high) == proportion(70, 80)
    each = Counting().by_count(x[asked < 10], asked[asked < 10])
    assert each[0].value == 1 and each[0].n == 7 and each[3].value == 7 / 8 and each[3].floor == 1
    assert each[3].name == "counting-3" and found.extractor == "components>0"
    assert Counting()(x, COUNTS).value == Counting()(x, COUNTS).floor == 1
    assert Counting()(x.expand(-1, 3, -1, -1), COUNTS).value == 1
    assert Counting(least=100)(x, COUNTS).value == 0.1 == Counting(least=100)(x, COUNTS).floor
    assert Counting()(x, COUNTS + 100).floor is None


def test_errors():
    x = scenes(COUNTS, 24)
    for asked in (COUNTS[:5], COUNTS.float(), COUNTS - 1):
        with pytest.raises(OrnsteinError, match="the number asked for"):
            Counting()(x, asked)
    with pytest.raises(OrnsteinError, match="least=0"):
        Counting(least=0)
    with pytest.raises(OrnsteinError, match="level=1"):
        Counting(level=1)


def test_the_recipe_and_the_shipped_model():
    from ornstein import model
    from ornstein.core import catalog
    from ornstein.recipes.train_scenes import USUAL, train_scenes
    from ornstein.train import Engine

    path = catalog.ROOT / "models" / "digits" / "scenes.safetensors"
    loaded = model.load(path)
    assert loaded.shape == (1, 24, 24) and sum(p.numel() for p in loaded.backbone.parameters()) * 2 < 300_000
    training = train_scenes(pictures=90, settings=USUAL)
    assert {k: v.shape for k, v in training.model.backbone.state_dict().items()} == {
        k: v.shape for k, v in loaded.backbone.state_dict().items()}  # fmt: skip
    batch = training.data(torch.arange(18))
    assert torch.equal(components(batch["x0"]), batch["cond"]["label"] + 1)
    assert Engine(training).step()["loss"] > 0
