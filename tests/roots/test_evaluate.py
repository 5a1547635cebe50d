"""Measuring a model: every figure with interval, extractor and floor, and real pictures score better than noise."""

from __future__ import annotations

import pytest
import torch

from ornstein import evaluate as root
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.model import create, load


def test_every_figure_comes_with_what_it_rests_on(weights):
    found = root.evaluate(load(weights["dit"]), 32)
    assert [m.name.split()[0] for m in found][:3] == ["accuracy", "kid", "frechet"] and len(found) == 6
    assert all(m.low <= m.value <= m.high and m.extractor and m.floor is not None for m in found)


def test_an_untrained_model_is_far_from_its_floor(weights):
    by_name = {m.name: m for m in root.evaluate(load(weights["dit"]), 32)}
    assert by_name["accuracy"].value < 0.5 < by_name["accuracy"].floor
    assert all(by_name[m].value > by_name[m].floor for m in ("frechet", "kid"))


def test_what_is_asked_for_is_what_is_measured(weights, monkeypatch):
    """A model that draws the real pictures of the labels it is asked for is right about all of them."""
    data = catalog.build("data", "digits", split="all")
    images, labels = data.images(), data.labels

    class Oracle:
        shape, codec, name = (1, 8, 8), None, "oracle"

        def generate(self, asked, seed, batch, progress):
            rows = [int((labels == a).nonzero()[seed + i % 20]) for i, a in enumerate(asked)]
            return type("Drawn", (), {"x": images[rows]})

    by_name = {m.name: m for m in root.evaluate(Oracle(), 64)}
    assert by_name["accuracy"].value > 0.95


def test_premultiplied_transparency_is_white():
    clear, red = torch.full((1, 4, 2, 2), -1.0), torch.tensor([1.0, -1, -1, 1])[None, :, None, None].expand(1, 4, 2, 2)
    assert (root._flat(clear) == 1).all() and root._flat(red)[0, :, 0, 0].tolist() == [1, -1, -1]


def test_bad_asks(weights, ornstein):
    with pytest.raises(OrnsteinError, match="too few"):
        root.evaluate(load(weights["dit"]), 3)
    config = {
        "backbone": {"name": "dit", "channels": 2, "patch": 2, "width": 32, "depth": 1, "heads": 2},
        "shape": [2, 8, 8],
    }
    with pytest.raises(OrnsteinError, match="no data in the house"):
        root.evaluate(create({**config, "process": {"name": "flow"}}), 16)
    ran = ornstein("evaluate", "digitz")
    assert ran.code == 2 and "Did you mean 'digits'" in ran.err


def test_the_command_prints_a_table(weights, ornstein):
    ran = ornstein("evaluate", weights["dit"], "--count", 16)
    assert ran.code == 0 and all(word in ran.out for word in ("accuracy", "kid", "frechet", "real against real"))
