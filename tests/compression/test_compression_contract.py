"""What every compression keeps to, over all files of the room."""

import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from ornstein.compression.layers.swap import stored_bytes
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import attach

NAMES = [e.name for e in catalog.entries("compression")]


def network(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"channels": 1, "patch": 2, "width": 32, "depth": 2, "heads": 4, "classes": 10} | changes
    net = catalog.load("backbones", "dit")(**settings)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


def inputs(batch=5):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=g), torch.rand(batch, generator=g), {"label": torch.arange(batch) % 10}


def part(name, **settings):
    return catalog.load("compression", name)(**({"min_size": 1000} | settings))


def test_the_room_is_not_empty():
    assert "int8" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_made_and_the_original_left(name):
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = part(name)(net)
    assert made is not net and dataclasses.is_dataclass(part(name))
    after = net.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(v, before[k]) for k, v in after.items())
    want, got = net(*inputs()), made(*inputs())
    assert 0 < (got - want).norm() / want.norm() < 0.1, "close, and not the same: it did something"
    same = part(name, inplace=True)(net)
    assert same is net and torch.equal(net(*inputs()), got)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_measured(name, tmp_path):
    net = network()
    made = part(name)(net)
    raw = save(made.state_dict())
    tensors = len(raw) - 8 - int.from_bytes(raw[:8], "little")  # a safetensors file: 8 bytes, header, tensors
    assert part(name).reported_bytes(made) == stored_bytes(made) == tensors < stored_bytes(net)
    assert part(name).reported_bytes(net) == stored_bytes(net)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name):
    made = part(name)(network())
    raw = save(made.state_dict())
    fresh = part(name)(network(seed=1))
    assert not torch.equal(fresh(*inputs()), made(*inputs()))
    fresh.load_state_dict(load(raw))
    assert torch.equal(fresh(*inputs()), made(*inputs()))
    with torch.device("meta"):
        empty = network(seed=2)
    empty = part(name)(empty)
    empty.load_state_dict(load(raw), assign=True)
    assert torch.equal(empty(*inputs()), made(*inputs()))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    made = part(name)(network())
    x, t, cond = inputs()
    with torch.inference_mode():
        whole = made(x, t, cond)
        x2 = torch.cat([x[:1] * 100, x[1:]])
        assert torch.equal(made(x2, t, cond)[1:], whole[1:])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_matched_and_what_would_be_lost_are_refused(name):
    for bad in ({"roles": ()}, {"roles": ("conv",)}, {"min_size": 10**9}, {"skip": ("*",)}):
        with pytest.raises(OrnsteinError, match="matched no layer|does nothing"):
            part(name, **bad)(network())
    with pytest.raises(OrnsteinError, match="unknown layer role"):
        part(name, roles=("qvk",))(network())
    with pytest.raises(OrnsteinError, match="matched no layer"):
        part(name)(part(name)(network()))
    hooked = network()
    hooked.blocks[0].attn.qkv.register_forward_hook(lambda *a: None)
    with pytest.raises(OrnsteinError, match="carries a hook"):
        part(name)(hooked)


@pytest.mark.parametrize("name", NAMES)
def test_it_works_under_the_seam(name):
    from ornstein.core.effects import Effects

    class Watch:
        effects = Effects.of()
        seen = 0

        def select(self, sites):
            return sites

        def start(self):
            return {}

        def around(self, site, clock, streams, run, memory):
            return run(streams)

    made = part(name)(network())
    want = made(*inputs())
    detach = attach(made, Watch())
    assert torch.equal(made(*inputs()), want)
    detach()
