"""Adaptive feature aggregation: one network chosen is that network, the weights, what trains, rows, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.aggregation import Aggregation, TokenGate, aggregated
from ornstein.guidance.cfg import CFG
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP


def net(seed=0, width=16, process=None):
    torch.manual_seed(seed)
    found = catalog.build("backbones", f"dit:channels=1,patch=2,width={width},depth=3,heads=2,classes=10")
    for p in found.parameters():
        nn.init.normal_(p, std=0.15)
    return Denoiser(found, process or Flow(), null=found.null_condition)


def inputs(batch=3):
    g = torch.Generator().manual_seed(4)
    return torch.randn(batch, 1, 8, 8, generator=g), torch.tensor([0.2, 0.5, 0.9])[:batch], {"label": torch.arange(batch)}


def chosen(both, k):
    """All weight to network k, in blocks and heads."""
    for layer in (*(g.out for g in both.gates), both.last):
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.full_like(layer.bias, -1e4).index_fill(0, torch.tensor([k]), 0.0)


def shaken(both):
    source = torch.Generator().manual_seed(6)
    for p in both.parameters():
        if p.requires_grad:
            p.data += torch.randn(p.shape, generator=source) * 0.5
    return both


@pytest.mark.parametrize("k", [0, 1])
def test_one_chosen_everywhere_is_that_network(k):
    pair = net(0), net(1)
    both = aggregated(pair)
    chosen(both, k)
    said = guide(pair[0], Aggregation(both))(*inputs())
    assert torch.allclose(said.value, pair[k](*inputs()).value, atol=1e-5)
    assert not torch.allclose(said.value, pair[1 - k](*inputs()).value, atol=1e-2)


def test_copies_of_one_network_are_that_network_whatever_the_weights():
    one = net()
    both = shaken(aggregated((one, copy.deepcopy(one), copy.deepcopy(one))))
    assert torch.allclose(guide(one, Aggregation(both))(*inputs()).value, one(*inputs()).value, atol=1e-5)


def test_the_equation_by_hand():
    """The first block of each on its own embedding, merged by the gate; the second on what was merged."""
    pair = net(0), net(1)
    both, seen = shaken(aggregated(pair)), {}
    for k, blocks in enumerate(both.blocks):
        for b, block in enumerate(blocks):
            block.register_forward_hook(lambda m, args, out, at=(k, b): seen.update({at: (args, out)}))
    x, t, cond = inputs()
    both(x, t, cond)
    for b in range(2):
        f = [seen[k, b][1] for k in range(2)]
        a = both.gates[b](f, t)
        assert a.shape == (2, 3, 16, 1) and torch.allclose(a.sum(0), torch.ones(3, 16, 1)) and (a > 0).all() and a.std() > 0.01
        for k in range(2):
            assert torch.allclose(seen[k, b + 1][0][0], a[0] * f[0] + a[1] * f[1], atol=1e-5)
    assert not torch.equal(seen[0, 0][0][0], seen[1, 0][0][0]) and not torch.equal(seen[0, 1][0][1], seen[1, 1][0][1])


def test_weights_are_even_at_first_and_see_time_place_and_features():
    torch.manual_seed(0)
    gate, f = TokenGate(2, 8, 8), [torch.randn(3, 5, 8) for _ in range(2)]
    t = torch.tensor([0.1, 0.5, 0.9])
    assert torch.equal(gate(f, t), torch.full((2, 3, 5, 1), 0.5))
    nn.init.normal_(gate.out.weight), nn.init.normal_(gate.time.weight)
    a = gate(f, t)
    assert a[0].std(1).min() > 1e-3 and (gate(f, t.flip(0)) - a).abs().max() > 1e-3
    assert (gate([f[0], f[1] * torch.randn(8)], t) - a).abs().max() > 1e-3


def test_only_the_gates_train_and_the_networks_given_stay():
    pair = net(0), net(1)
    before = [{n: v.clone() for n, v in d.backbone.state_dict().items()} for d in pair]
    both = aggregated(pair)
    free = {n for n, p in both.named_parameters() if p.requires_grad}
    assert free and all(n.startswith(("gates.", "last.")) for n in free)
    with torch.enable_grad():
        shaken(both)(*inputs()).square().mean().backward()
    assert all((p.grad is not None) == (n in free) and (n not in free or p.grad.abs().sum() > 0)
               for n, p in both.named_parameters() if "norm" not in n)  # fmt: skip
    for d, was in zip(pair, before):
        assert all(torch.equal(v, was[n]) for n, v in d.backbone.state_dict().items())
        assert all(p.requires_grad for p in d.backbone.parameters()) and len(d.backbone.blocks) == 3
        assert type(d.backbone.blocks[0]).__name__ == "Block"


def test_a_sample_does_not_depend_on_its_neighbours_and_guidance_goes_on_top():
    pair = net(0), net(1)
    both = guide(pair[0], Aggregation(shaken(aggregated(pair))), CFG(2.0))
    x, t, cond = inputs()
    together = both(x, t, cond, Clock(ids=(0, 1, 2))).value
    for k in range(3):
        alone = both(x[k : k + 1], t[k], {"label": cond["label"][k : k + 1]}, Clock(ids=(k,))).value
        assert torch.allclose(alone, together[k : k + 1], atol=1e-5)
    drawn = sample(both, (2, 1, 8, 8), catalog.build("solvers", "dpmpp2m"), 3, cond={"label": torch.arange(2)})
    assert drawn.isfinite().all()
    with pytest.raises(OrnsteinError, match="Make it the first rule"):
        guide(pair[0], CFG(2.0), Aggregation(aggregated(pair)))(x, t, cond)


def test_what_does_not_fit_is_refused():
    with pytest.raises(OrnsteinError, match="two networks or more of one architecture"):
        aggregated((net(0), net(1, width=24)))
    with pytest.raises(OrnsteinError, match="two networks or more"):
        aggregated((net(0),))
    with pytest.raises(OrnsteinError, match="do not predict alike"):
        aggregated((net(0), net(1, process=VP())))
    unet = [Denoiser(catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2)"), Flow()) for _ in range(2)]
    with pytest.raises(OrnsteinError, match="not one row of blocks"):
        aggregated(unet)
