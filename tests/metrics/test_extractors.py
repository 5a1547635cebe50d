"""Extractors with weights on disk: what is missing is named, weights are told apart, batches agree."""

import dataclasses
import sys
import types

import pytest
import torch

from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers import foreign
from ornstein.metrics.layers.features import extractor, features
from ornstein.metrics.mmd import MMD


def images(n=5, channels=3):
    return torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        place = tmp_path_factory.mktemp(f"clip{seed}")
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        transformers.CLIPModel(config).save_pretrained(place)
        found.append(str(place))
    return found


def test_clip_from_a_folder(folders):
    from transformers import CLIPModel

    one = extractor(f"clip:{folders[0]}")
    x = images()
    seen = features(x, f"clip:{folders[0]}", "x")
    assert seen.shape == (5, 6) and one.name.startswith("clip-") and len(one.name) == 13 and one.maps is None
    assert torch.allclose(seen[:2], features(x[:2], one, "x"), atol=1e-6)
    grey = images(channels=1)
    assert torch.allclose(features(grey, one, "x"), features(grey.expand(-1, 3, -1, -1), one, "x"))
    flat = torch.full((2, 3, 16, 16), 0.5)  # the whole model's own answer, for pixels that need no resizing
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (foreign.MEAN, foreign.STD))
    with torch.no_grad():
        whole = CLIPModel.from_pretrained(folders[0]).eval()
        state = whole.vision_model(pixel_values=(flat * 0.5 + 0.5 - mean) / std).pooler_output
        want = whole.visual_projection(state)
    assert torch.allclose(features(flat, one, "x"), want.double(), atol=1e-5)


def test_figures_of_different_weights_do_not_compare(folders):
    a, b = (MMD(f"clip:{f}", rounds=10)(images(8), images(8).flip(3)) for f in folders)
    assert a.extractor != b.extractor and a.extractor == extractor(f"clip:{folders[0]}").name
    with pytest.raises(OrnsteinError, match="different extractor"):
        a.better_than(b)
    assert a.better_than(dataclasses.replace(b, extractor=a.extractor, value=a.value + 1))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(OrnsteinError, match=r"inception are not at .*nowhere.pth.*inception:FILE"):
        extractor(f"inception:{tmp_path}/nowhere.pth")
    for name in ("clip", f"clip:{tmp_path}"):
        with pytest.raises(OrnsteinError, match="clip finds no config.json.*'clip:FOLDER'"):
            extractor(name)
    with pytest.raises(OrnsteinError, match="Did you mean 'inception'"):
        extractor("inceptoin")
    file = tmp_path / "w.pth"
    file.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(OrnsteinError, match="pip install torch-fidelity"):
        features(images(), f"inception:{file}", "x")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OrnsteinError, match=r"needs transformers.*ornstein\[hub\]"):
        features(images(), f"clip:{tmp_path}", "x")


def test_inception_is_asked_as_torch_fidelity_wants_it(tmp_path, monkeypatch):
    class Net(torch.nn.Module):
        def __init__(self, name, wanted, feature_extractor_weights_path=None):
            super().__init__()
            assert wanted == ["2048"] and feature_extractor_weights_path == str(file)

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return (x.float().mean((2, 3)),)

    file = tmp_path / "weights.pth"
    file.write_bytes(b"some weights")
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Net
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    ends = torch.tensor([-1.2, -1.0, 0.0, 1.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    assert features(ends, f"inception:{file}", "x")[:, 0].tolist() == [0, 0, 128, 255]
    assert extractor(f"inception:{file}").name == "inception-" + __import__("hashlib").sha256(b"some weights").hexdigest()[:8]
    with pytest.raises(OrnsteinError, match="cannot see 4 channels"):
        features(torch.zeros(2, 4, 8, 8), f"inception:{file}", "x")
