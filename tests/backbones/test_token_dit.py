"""The TokenDiT's planes, and the shipped model of tokens from prompt to picture."""

import copy

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.metrics.layers.digits import predict
from ornstein.model import load
from ornstein.recipes import prepare
from ornstein.train import fit


def test_it_is_the_dit_on_planes():
    """Channel by channel, K + 1 planes each; the mask's plane is no answer."""
    torch.manual_seed(0)
    net = catalog.build("backbones", "token_dit:tokens=3,channels=2,patch=1,width=16,depth=1,heads=2")
    for p in net.parameters():
        p.data.normal_(std=0.3)
    x, t = torch.tensor([[[[0, 3]], [[1, 2]]]]), torch.tensor([0.4])
    planes = torch.zeros(1, 8, 1, 2)
    for channel, row in enumerate(x[0, :, 0].tolist()):
        for place, token in enumerate(row):
            planes[0, 4 * channel + token, 0, place] = 1
    inner, logits = net.network(planes, t), net(x, t)
    assert logits.shape == (1, 2, 1, 2, 3)
    for channel in range(2):
        for token in range(3):
            assert torch.equal(logits[0, channel, ..., token], inner[0, 4 * channel + token])
    with pytest.raises(OrnsteinError, match="needs whole numbers"):
        net(x.float(), t)


def test_the_shipped_model_draws_digits():
    model = load("digits-tokens")
    made = model.generate(["3", "7", "0", "4"] * 10, steps=32, seed=1)
    assert made.images.shape == (40, 8, 8, 1) and made.x.dtype == torch.long and int(made.x.max()) < 5
    assert set(made.images.flatten().tolist()) <= {0, 64, 127, 128, 191, 255}
    right = predict(model.codec.decode(made.x)) == torch.tensor([3, 7, 0, 4] * 10)
    assert right.double().mean() > 0.8
    few = model.generate(["3", "7", "0", "4"] * 10, steps=32, seed=1, batch=7)
    assert torch.equal(few.x, made.x) and made.record.facts["solver"] == "unmask"


def test_guidance_on_logits_makes_the_class_surer():
    model = load("digits-tokens")
    label = torch.arange(10).repeat(6)
    right = []
    for guidance in ("cfg:scale=1", "cfg:scale=3"):
        made = model.generate([str(k) for k in label.tolist()], steps=8, guidance=guidance, seed=2)
        right.append((predict(model.codec.decode(made.x)) == label).double().mean().item())
    assert right[1] > right[0] + 0.05


def test_the_recipe_from_end_to_end(tmp_path):
    small = {"width": "16", "depth": "1", "steps": "3", "every": "3", "batch": "8", "warmup": "1"}
    training = prepare("digits_tokens", small)
    before = copy.deepcopy(training.model.backbone.state_dict())
    model = fit(training, tmp_path)
    assert any(not torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    again = load(tmp_path / "model.safetensors")
    assert torch.equal(again.generate(["3"], steps=2).x, model.generate(["3"], steps=2).x)
    assert (tmp_path / "samples-0000003.png").exists() and training.held_out["x0"].dtype == torch.long
