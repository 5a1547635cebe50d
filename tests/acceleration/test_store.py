"""How caches are stored: exact where nothing changes, half as many bytes, no sample feels its neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import denoiser
from torch import nn

from ornstein.acceleration.layers.ledger import held
from ornstein.acceleration.layers.store import Packed, pack, unpack
from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run, attach, gather

PARTS = ("taylorseer:interval=3,order=2", "taylorseer:interval=3,grain=trunk", "taylorseer:interval=3,faithful=True",
         "firstblock:threshold=0.2", "deepcache:interval=3")  # fmt: skip


def unet():
    torch.manual_seed(2)
    net = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2),classes=10")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return Denoiser(net.requires_grad_(False), catalog.build("processes", "flow"))


class Shuffle(Controller):
    def after(self, before, now):
        return now.take(torch.tensor([2, 0, 3, 1])) if now.step == 5 else now


def draw(text, store, ids=(0, 1, 2, 3), controllers=()):
    host, run = unet() if text.startswith("deepcache") else denoiser(), Run()
    detach = attach(host.backbone, replace(catalog.build("acceleration", text), store=store))
    try:
        x = sample(host, (len(ids), 1, 8, 8), catalog.build("solvers", "ddim"), 9, run=run, ids=ids, controllers=controllers,
                   cond={"label": torch.tensor(ids)})  # fmt: skip
    finally:
        detach()
    return x, run.record.facts[text.partition(":")[0]]["cond"]["cache_bytes"]


@pytest.mark.parametrize("text", PARTS)
def test_half_the_bytes_and_nearly_the_same(text):
    (plain, all_bytes), (half, fewer), (host, same) = (draw(text, s) for s in ("plain", "half", "host"))
    assert torch.equal(host, plain) and same == all_bytes, "on one device, away is here"
    gap = float((half - plain).norm() / plain.norm())
    assert 0 < gap < 1e-3
    assert 0.4 * all_bytes < fewer < 0.6 * all_bytes
    assert torch.allclose(draw(text, "half", (2,))[0][0], half[2], atol=2e-4)


@pytest.mark.parametrize("text", PARTS)
def test_what_is_stored_follows_resampling(text):
    """The rows of the shuffled run are those of the plain one in another order, also from what was packed."""
    turned = draw(text, "half", controllers=[Shuffle()])[0]
    assert torch.allclose(turned, draw(text, "half")[0][[2, 0, 3, 1]], atol=2e-4)


def test_numbers_come_back():
    x = torch.stack([torch.randn(50), torch.randn(50) * 1e6, torch.full((50,), 65536.0), torch.zeros(50)]).view(4, 5, 10)
    tree = {"a": x, "b": [None, (x.double(), torch.arange(4))], "c": x.bfloat16()}
    packed = pack(tree, "half")
    back = unpack(packed)
    assert packed["a"].value.dtype == torch.float16 and packed["a"].value.isfinite().all()
    assert ((back["a"] - x).abs() <= 2**-11 * x.abs() + 2**-24).all() and not torch.equal(back["a"], x)
    assert back["b"][1][0].dtype == torch.float64 and torch.equal(back["b"][1][1], torch.arange(4)) and back["b"][0] is None
    assert torch.equal(back["c"], x.bfloat16()) and back["c"].dtype == torch.bfloat16
    assert torch.equal(pack(x, "half").scale.flatten()[[0, 2, 3]], torch.tensor([1.0, 2.0, 1.0]))
    assert pack(tree, "plain") is tree and torch.equal(unpack(tree)["a"], x)
    rows = gather(packed, torch.tensor([1, 1, 0]), 4)
    assert torch.equal(unpack(rows)["a"], back["a"][[1, 1, 0]]) and len(rows["a"]) == 3


def test_bytes_are_told_where_they_lie():
    here = Packed(torch.zeros(4, 2).half(), torch.ones(4, 1), torch.float32, torch.device("cpu"))
    there = Packed(torch.zeros(4, 2), None, torch.float32, torch.device("meta"))
    assert held({"a": here, "b": [there]}) == 16 + 16 and held({"a": here, "b": [there]}, away=True) == 32


def test_an_unknown_store_is_refused():
    for name in ("taylorseer", "deepcache", "firstblock"):
        with pytest.raises(OrnsteinError, match="store of .*'harf'.*half"):
            catalog.build("acceleration", {"name": name, "store": "harf"})
