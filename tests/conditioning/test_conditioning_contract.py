"""Every file of conditioning/: deterministic, batch independent, padded to one length, and with a null condition."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

PATHS = [e.path for e in catalog.entries("conditioning")]
TEXTS = ["a red apple", "", "two dogs in the rain", "café 🍎 naïve", "x"]
CACHE = {}


def encoder(path):
    if path not in CACHE:
        torch.manual_seed(0)
        part = catalog.load("conditioning", path)()
        try:
            part(_inputs(part)[:1])
        except OrnsteinError as error:
            pytest.skip(str(error))
        CACHE[path] = part
    return CACHE[path]


def _inputs(part):
    return [3, 0, 9, 1, 1] if part.dim == 0 else TEXTS


def test_the_room_is_not_empty():
    assert {f"conditioning/{n}" for n in ("minilm", "classes", "bytes")} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_the_same_twice(path):
    part = encoder(path)
    first, again = part(_inputs(part)), part(_inputs(part))
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("path", PATHS)
def test_a_row_does_not_depend_on_its_neighbours(path):
    part = encoder(path)
    inputs = _inputs(part)
    together, reverse = part(inputs), part(inputs[::-1])
    for i, given in enumerate(inputs):
        alone = part([given])
        for key, value in together.items():
            torch.testing.assert_close(value[i], alone[key][0], atol=1e-5, rtol=0)
            torch.testing.assert_close(value[i], reverse[key][-1 - i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_the_null_condition_has_the_shapes_of_a_condition(path):
    part = encoder(path)
    given, null = part(_inputs(part)), part.null(5)
    assert {k: (v.shape, v.dtype) for k, v in given.items()} == {k: (v.shape, v.dtype) for k, v in null.items()}
    assert all(len(v) == 0 for v in part.null(0).values()) and all(len(v) == 0 for v in part([]).values())
    for i in range(5):
        assert any(not torch.equal(given[k][i], null[k][i]) for k in given)


@pytest.mark.parametrize("path", PATHS)
def test_text_has_tokens_a_mask_and_a_pooled_vector(path):
    part = encoder(path)
    if part.dim == 0:
        assert set(part.null(1)) == {"label"}
        return
    for out in (part(TEXTS), part.null(5)):
        assert out["tokens"].shape == (5, part.length, part.dim) and out["pooled"].shape == (5, part.dim)
        assert out["mask"].dtype == torch.bool and out["mask"].any(1).all()
        assert (out["tokens"][~out["mask"]] == 0).all()
        falling = out["mask"].int().diff(dim=1)
        assert (falling <= 0).all()  # what is valid comes first


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_text_or_label_is_refused(path):
    part = encoder(path)
    with pytest.raises(OrnsteinError):
        part([None])


@pytest.mark.parametrize("path", PATHS)
def test_the_longest_text_is_cut(path):
    part = encoder(path)
    if part.dim:
        out = part(["apple " * 200])
        assert out["mask"].all() and out["tokens"].shape[1] == part.length
