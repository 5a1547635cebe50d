"""What every adapter keeps to, over all files of the room, on float and on int8 networks."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import fingerprint

NAMES = [e.name for e in catalog.entries("adapters")]
HOSTS = ["float", "int8", "int8-dynamic"]


def network(host="float", seed=0):
    torch.manual_seed(seed)
    net = catalog.load("backbones", "dit")(channels=1, patch=2, width=32, depth=2, heads=4, classes=10)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    if host == "float":
        return net
    return catalog.build("compression", "int8", min_size=1000, mode="dynamic" if "dynamic" in host else "weights")(net)


def inputs(batch=5):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=g), torch.rand(batch, generator=g), {"label": torch.arange(batch) % 10}


def part(method, /, **settings):
    return catalog.load("adapters", method)(**settings)


def shake(handle):
    """As if it had been trained."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in handle.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)


def test_the_room_is_not_empty():
    assert "lora" in NAMES


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", NAMES)
def test_zero_init_is_exact_and_detach_leaves_no_trace(name, host):
    net = network(host)
    want, mark, keys = net(*inputs()), fingerprint(net), list(net.state_dict())
    flags = {n: p.requires_grad for n, p in net.named_parameters()}
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    assert dataclasses.is_dataclass(part(name))
    handle = part(name)(net)
    assert isinstance(handle, nn.Module)
    assert torch.equal(net(*inputs()), want), "a fresh adapter changes nothing"
    assert fingerprint(net) == mark and list(net.state_dict()) == keys
    shake(handle)
    assert not torch.allclose(net(*inputs()), want, atol=1e-3), "a trained adapter changes the answer"
    handle.detach()
    assert torch.equal(net(*inputs()), want)
    assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
    assert sum(len(m._forward_hooks) for m in net.modules()) == hooks


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", NAMES)
def test_only_the_adapter_trains(name, host):
    net = network(host)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    handle = part(name)(net)
    assert not any(p.requires_grad for p in net.parameters()) and all(p.requires_grad for p in handle.parameters())
    own = {id(p) for p in handle.parameters()}
    assert own and not own & {id(p) for p in net.parameters()}, "the adapter's parameters are its own"
    optimiser = torch.optim.SGD([*handle.parameters(), *net.parameters()], lr=0.5)
    losses = []
    for _ in range(3):
        loss = net(*inputs()).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[2] < losses[0]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the base must not move"
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in handle.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_flag_comes_back_whatever_the_order_of_detaching(name):
    for order in ((0, 1), (1, 0)):
        net = network()
        net.embed.weight.requires_grad_(False)
        flags = {n: p.requires_grad for n, p in net.named_parameters()}
        handles = [part(name, name="a")(net), part(name, name="b")(net)]
        handles[order[0]].detach()
        assert not any(p.requires_grad for p in net.parameters())
        handles[order[1]].detach()
        assert {n: p.requires_grad for n, p in net.named_parameters()} == flags


@pytest.mark.parametrize("name", NAMES)
def test_merge_equals_attached_and_unmerge_is_bit_exact(name):
    net = network()
    plain, before = net(*inputs()), {k: v.clone() for k, v in net.state_dict().items()}
    handle = part(name)(net)
    shake(handle)
    want = net(*inputs())
    handle.merge()
    assert torch.allclose(net(*inputs()), want, rtol=1e-4, atol=1e-5) and not torch.allclose(want, plain, atol=1e-3)
    with pytest.raises(OrnsteinError, match="is merged already"):
        handle.merge()
    handle.unmerge()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and torch.equal(net(*inputs()), want)
    with pytest.raises(OrnsteinError, match="it is not merged"):
        handle.unmerge()


@pytest.mark.parametrize("host", HOSTS[1:])
@pytest.mark.parametrize("name", NAMES)
def test_a_merge_into_whole_numbers_is_refused_and_changes_nothing(name, host):
    net = network(host)
    handle = part(name)(net)
    shake(handle)
    want = net(*inputs())
    with pytest.raises(OrnsteinError, match="cannot be merged into the whole numbers of 'blocks.0.*quantise that"):
        handle.merge()
    assert torch.equal(net(*inputs()), want)


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load(name, tmp_path):
    from importlib import import_module

    load = import_module(f"ornstein.adapters.{name}").load
    net = network()
    handle = part(name, name="style")(net)
    shake(handle)
    want = net(*inputs())
    path = handle.save(tmp_path / "a.safetensors")
    fresh = network()
    again = load(path, fresh)
    assert torch.equal(fresh(*inputs()), want) and again.settings == handle.settings
    with pytest.raises(OrnsteinError, match="trained on another model .*any_model=True"):
        load(path, network(seed=3))
    for foreign in (catalog.load("backbones", "dit")(channels=1, patch=2, width=48, depth=2, heads=4, classes=10),
                    catalog.load("backbones", "dit")(channels=1, patch=2, width=32, depth=1, heads=4, classes=10)):
        kept = foreign.head.weight.requires_grad
        with pytest.raises(OrnsteinError, match="does not fit this model"):
            load(path, foreign, any_model=True)
        assert foreign.head.weight.requires_grad == kept and not any(m._forward_hooks for m in foreign.modules())
    quantised = network("int8")
    base = quantised(*inputs())
    load(path, quantised, any_model=True)
    plain = network()(*inputs())
    moved = ((quantised(*inputs()) - base) - (want - plain)).norm() / (want - plain).norm()
    assert moved < 0.1, "on int8 the adapter does what it does on float"
    (tmp_path / "b").write_bytes(b"nothing")
    with pytest.raises(OrnsteinError, match="cannot be read as an adapter"):
        load(tmp_path / "b", network())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_matched_and_taken_names_are_refused(name):
    net = network()
    for bad in ({"roles": ("conv",)}, {"skip": ("*",)}, {"roles": ()}):
        with pytest.raises(OrnsteinError, match="matched no"):
            part(name, **bad)(net)
    part(name)(net)
    with pytest.raises(OrnsteinError, match="already has an adapter 'default'"):
        part(name)(net)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_network_has_an_adapter_of_its_own(name):
    net = network()
    handle = part(name)(net)
    shake(handle)
    want = net(*inputs())
    twin = copy.deepcopy(net)
    assert torch.equal(twin(*inputs()), want)
    shake(handle)
    assert torch.equal(twin(*inputs()), want) and not torch.equal(net(*inputs()), want)
