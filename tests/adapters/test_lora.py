"""LoRA: the equation, scales, several adapters, types."""

import pytest
import torch
from torch import nn

from ornstein.adapters.lora import LoRA, attached
from ornstein.core.errors import OrnsteinError


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.ModuleDict({"qkv": nn.Linear(12, 36), "ffn": nn.Linear(12, 12)}).to(dtype)


def trained(model, **settings):
    adapter = LoRA(**settings)(model)
    nn.init.normal_(adapter.pairs[0].up)
    return adapter


def test_the_equation():
    model, x = net(), torch.randn(3, 5, 12)
    plain = model["qkv"](x)
    adapter = trained(model, rank=4, alpha=6.0)
    pair = adapter.pairs[0]
    assert len(adapter.pairs) == 1 and pair.down.shape == (4, 12) and pair.up.shape == (36, 4)
    want = plain + 6.0 / 4 * (x @ pair.down.t() @ pair.up.t())
    assert torch.allclose(model["qkv"](x), want, rtol=1e-4, atol=1e-5)
    adapter.strength = 0.5
    assert torch.allclose(model["qkv"](x), (plain + want) / 2, rtol=1e-4, atol=1e-5)
    adapter.strength = 0
    assert torch.equal(model["qkv"](x), plain), "strength 0 is exactly off"


def test_several_adapters_add_up_and_unmerge_in_reverse():
    model, x = net(), torch.randn(3, 12)
    plain, weight = model["qkv"](x), model["qkv"].weight.detach().clone()
    a = trained(model, name="a")
    with_a = model["qkv"](x)
    b = trained(model, name="b", seed=1, rank=2)
    both = model["qkv"](x)
    assert list(attached(model)) == ["a", "b"]
    a.strength = 0
    assert torch.allclose(model["qkv"](x) - plain, both - with_a, atol=1e-4)
    a.strength = 1.0
    a.merge()
    b.merge()
    assert torch.allclose(model["qkv"](x), both, rtol=1e-3, atol=1e-3)
    with pytest.raises(OrnsteinError, match="'b' was merged after it"):
        a.unmerge()
    with pytest.raises(OrnsteinError, match="is merged at strength 1.0"):
        a.strength = 0.5
    b.unmerge()
    a.unmerge()
    assert torch.equal(model["qkv"].weight, weight)
    a.detach()
    assert list(attached(model)) == ["b"]


def test_a_merged_adapter_that_is_detached_stays_in_the_weights():
    model, x = net(), torch.randn(3, 12)
    adapter = trained(model)
    want = model["qkv"](x)
    adapter.merge()
    adapter.detach()
    assert torch.allclose(model["qkv"](x), want, rtol=1e-4, atol=1e-5) and not attached(model)


def test_types_and_seeds():
    model, x = net(torch.bfloat16), torch.randn(3, 12).bfloat16()
    adapter = trained(model)
    assert model["qkv"](x).dtype == torch.bfloat16 and adapter.pairs[0].down.dtype == torch.float32
    kept = model["qkv"].weight.detach().clone()
    adapter.merge()
    assert model["qkv"].weight.dtype == torch.bfloat16
    adapter.unmerge()
    assert torch.equal(model["qkv"].weight, kept)
    same, other = LoRA()(net()), LoRA(seed=1)(net())
    assert torch.equal(same.pairs[0].down, adapter.pairs[0].down)
    assert not torch.equal(same.pairs[0].down, other.pairs[0].down)


def test_settings_that_do_nothing_are_refused():
    for bad in ({"rank": 0}, {"alpha": 0.0}):
        with pytest.raises(OrnsteinError, match="does nothing"):
            LoRA(**bad)
