"""Every file of data/: the protocol, the licence, the checksum and a split that is deterministic and disjoint."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

PATHS = [e.path for e in catalog.entries("data")]


def small(path: str, split: str):
    part = catalog.load("data", path)
    return part.subset(split) if hasattr(part, "subset") else part(split=split)


def test_the_room_is_not_empty():
    assert {"data/digits", "data/emoji"} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_images_are_a_float_tensor_in_range(path):
    data = small(path, "all")
    x = data.images()
    assert x.ndim >= 3 and len(x) == len(data) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1 and x.std() > 0.1
    assert torch.equal(data.images([3, 1]), x[[3, 1]])
    described = getattr(data, "captions", None) or data.labels
    assert len(described) == len(data)


@pytest.mark.parametrize("path", PATHS)
def test_licence_source_and_checksum_are_stated(path):
    part = catalog.load("data", path)
    assert part.LICENCE and part.SOURCE and len(part.SHA256) == 64


@pytest.mark.parametrize("path", PATHS)
def test_the_split_is_a_partition_and_the_same_twice(path):
    sizes = {s: len(small(path, s)) for s in ("train", "test", "all")}
    assert sizes["train"] + sizes["test"] == sizes["all"] and sizes["train"] > 3 * sizes["test"] > 0
    assert torch.equal(small(path, "test").images(), small(path, "test").images())
    rows = {s: {tuple(r.tolist()) for r in small(path, s).images().flatten(1)} for s in ("train", "test")}
    assert not rows["train"] & rows["test"]


@pytest.mark.parametrize("path", PATHS)
def test_handing_out_pictures_does_not_lend_the_storage(path):
    data = small(path, "test")
    before = data.images().clone()
    data.images().zero_()
    assert torch.equal(data.images(), before)


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_split_is_refused(path):
    with pytest.raises(OrnsteinError, match="unknown split 'tset'. Did you mean 'test'?"):
        small(path, "tset")
