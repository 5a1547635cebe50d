"""What is found in a network, and in which order."""

from __future__ import annotations

import pytest
from torch import nn

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.roles import ROLES, layers_by_role
from ornstein.core.sites import GRAINS, Seat, find_sites, returned_names


def dit(**settings):
    return catalog.load("backbones", "dit")(
        **{"channels": 1, "patch": 2, "width": 32, "depth": 3, "heads": 2} | settings
    )


def unet():
    return catalog.load("backbones", "unet")(channels=1, width=16, multipliers=(1, 2), attention_levels=(1,), heads=2)


def test_a_transformer_has_its_blocks_in_order():
    sites = find_sites(dit())
    assert {s.grain for s in sites} == set(GRAINS) - {"stage"}
    blocks = [s for s in sites if s.grain == "block"]
    assert [s.name for s in blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [(s.index, s.count, s.depth, s.stage) for s in blocks] == [(i, 3, i, 0) for i in range(3)]
    assert all(s.streams == (("x",),) for s in blocks)
    inside = [(s.name, s.grain, s.role) for s in sites if s.depth == 1 and s.grain != "block"]
    assert inside == [("blocks.1.attn", "branch", "attention"), ("blocks.1.attn", "attention", "attention"),
                      ("blocks.1.mlp", "branch", "mlp")]  # fmt: skip


def test_text_adds_cross_attention():
    roles = {s.role for s in find_sites(dit(text_dim=8)) if s.grain == "attention"}
    assert roles == {"attention", "cross_attention"}


def test_a_unet_is_found_in_the_order_of_computation():
    stages = [s for s in find_sites(unet()) if s.grain == "stage"]
    assert [s.role for s in stages] == ["down", "down", "mid", "up", "up"]
    assert [s.depth for s in stages] == [0, 1, 2, 3, 4] and {s.count for s in stages} == {1}


class Pair(nn.Module):
    """Two streams, in one of two ways."""

    def __init__(self):
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(2, 2))

    def forward(self, hidden, text=None, split=False):
        if split:
            return text, hidden
        return hidden


class PairBlock(Pair):
    pass


def test_the_return_statement_is_read():
    assert set(returned_names(PairBlock)) == {("text", "hidden"), ("hidden",)}
    net = nn.Module()
    net.blocks = nn.ModuleList([PairBlock(), PairBlock()])
    sites = find_sites(net)
    assert [s.name for s in sites] == ["", "blocks.0", "blocks.0.ff", "blocks.1", "blocks.1.ff"]


def test_a_declaration_wins_over_reading():
    net = nn.Module()
    net.things = nn.ModuleList([Pair(), Pair()])
    with pytest.raises(OrnsteinError, match="no blocks were found"):
        find_sites(net)
    blocks = [s for s in find_sites(net, {"Pair": Seat("block", streams=("hidden",))}) if s.grain == "block"]
    assert [s.name for s in blocks] == ["things.0", "things.1"] and blocks[0].streams == (("hidden",),)


@pytest.mark.parametrize("make", [lambda: dit(classes=3, text_dim=8), unet])
def test_native_layers_have_their_roles(make):
    roles = layers_by_role(make())
    assert {"temporal", "qkv", "attention_out", "embedding", "head"} <= set(roles.values())
    for name, role in roles.items():
        if "modulation" in name or name.startswith("time"):
            assert role == "temporal", name
        if name.endswith((".qkv", "cross.q", "cross.kv")):
            assert role == "qkv", name
        if name.endswith(("attn.out", "cross.out")):
            assert role == "attention_out", name
    assert roles["head"] == "head" and roles["embed"] == "embedding"
    assert layers_by_role(make(), ("head",)) == {"head": "head"}


def test_an_unknown_role_is_named():
    with pytest.raises(OrnsteinError, match="unknown layer role 'qvk'. Did you mean 'qkv'"):
        layers_by_role(dit(), ("qvk",))
    assert len(set(ROLES)) == len(ROLES)
