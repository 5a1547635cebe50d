"""Compiled copies of networks: at the grain of the plugins, kept, and never the network itself."""

from dataclasses import replace

import pytest
import torch

import ornstein
from ornstein.compiled import compiled, grain_of
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError


@pytest.fixture
def calls(monkeypatch):
    """torch.compile that only counts: what real compilation does to caches is tried in tests/acceleration."""
    seen = []

    def compile(function, dynamic=None, fullgraph=False):
        def run(*args, **kwargs):
            seen.append(function.__self__)
            return function(*args, **kwargs)

        run.__wrapped__ = function
        return run

    monkeypatch.setattr(torch, "compile", compile)
    return seen


@pytest.mark.parametrize("name", ["digits", "digits-unet"])
@pytest.mark.parametrize("accelerate", [(), ("taylorseer:interval=2",)], ids=str)
def test_a_compiled_plan_draws_the_same_and_leaves_the_network_alone(name, accelerate, calls):
    model = ornstein.load(name)
    plan = model.plan(steps=4, accelerate=accelerate)
    plain = model.generate(["1", "2"], plan).x
    made = model.generate(["1", "2"], plan, seed=0).x
    assert torch.equal(plain, made) and not calls
    got = model.generate(["1", "2"], replace(plan, compile=True))
    assert torch.equal(got.x, plain) and calls and got.record.facts["compile"]
    known, count = set(map(id, calls)), len(calls)
    model.generate(["1", "2"], replace(plan, compile=True))
    assert {id(c) for c in calls} == known and len(calls) == 2 * count  # the copy is kept
    assert not any("forward" in m.__dict__ for m in model.backbone.modules())
    if accelerate and name == "digits":
        assert count < 4 * 12  # some branches were forecast


def test_the_grain_is_that_of_the_plugins():
    net = ornstein.load("digits").backbone
    assert grain_of(net, []) == "block" and grain_of(ornstein.load("digits-unet").backbone, []) == "stage"
    assert grain_of(net, [catalog.build("acceleration", "firstblock:threshold=0.1")]) == "block"
    assert grain_of(net, [catalog.build("acceleration", "taylorseer:interval=2")]) == "branch"
    with pytest.raises(OrnsteinError, match="changes the attention"):
        grain_of(net, [catalog.build("acceleration", "clear")])


def test_each_block_once(calls):
    net = ornstein.load("digits").backbone
    made = compiled(net, "block")
    assert made is not net and all("forward" in b.__dict__ for b in made.blocks)
