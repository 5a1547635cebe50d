"""TD-LoRA: the equation at every time, merging at one time, rows and parts of batches, and the narrowed network."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from ornstein.acceleration.dydit import DyDiT
from ornstein.acceleration.firstblock import FirstBlock
from ornstein.acceleration.skip import Skip
from ornstein.adapters.td_lora import TDLoRA, attached
from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import attach


def net(seed=0):
    torch.manual_seed(seed)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=3,heads=4,classes=10")
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net.requires_grad_(False)


def shaken(model, **settings):
    adapter = TDLoRA(**settings)(model)
    source = torch.Generator().manual_seed(5)
    for p in adapter.parameters():
        p.data += torch.randn(p.shape, generator=source) * 0.2
    return adapter


def inputs(t, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(t), 1, 8, 8, generator=g), t, {"label": torch.arange(len(t)) % 10}


def test_the_equation():
    """At each time as if B were the mixture of that time, written out for the first layer."""
    model = net()
    adapter = shaken(model, rank=2, alpha=3.0, experts=3)
    pair, seen = adapter.pairs[0], []
    pair.layer.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    t = torch.tensor([0.1, 0.5, 0.9])
    model(*inputs(t))
    x, said = seen[0]
    for k, now in enumerate(t):
        features = torch.stack([now, *(f(n * torch.pi * now) for n in (1, 2) for f in (torch.sin, torch.cos))])
        pi = (adapter.router @ features + adapter.bias).softmax(0)
        up = sum(w * b for w, b in zip(pi, pair.up))
        want = pair.layer.weight @ x[k].T + 3.0 / 2 * up @ (pair.down @ x[k].T)
        assert torch.allclose(said[k], want.T + pair.layer.bias, atol=1e-5)
    assert len(adapter.pairs) == 6 and {p.path.split(".")[-1] for p in adapter.pairs} == {"qkv", "out"}


def test_experts_share_the_times_at_the_start():
    adapter = TDLoRA(experts=4)(net())
    times = (torch.arange(100) + 0.5) / 100
    pi = adapter.weights(times)
    assert torch.allclose(pi.sum(1), torch.ones(100)) and pi.argmax(1).bincount().tolist() == [25] * 4
    assert (pi.argmax(1).diff() >= 0).all() and torch.allclose(pi.flip(0, 1), pi, atol=1e-4)
    other = TDLoRA(experts=4, span=(0.0, 1000.0))(net())
    assert torch.allclose(other.weights(1000 * times), pi, atol=1e-4)
    assert torch.allclose(adapter.weights(torch.full((2, 7), 0.3)), adapter.weights(torch.tensor([0.3, 0.3])), atol=1e-5)


def test_one_expert_is_lora():
    from ornstein.adapters.lora import LoRA

    model, t = net(), torch.tensor([0.2, 0.8])
    timed = shaken(model, rank=4, experts=1)
    assert not any("router" in n for n, _ in timed.named_parameters())
    want, plain = model(*inputs(t)), net()
    lora = LoRA(4, 4.0)(plain)
    for ours, theirs in zip(timed.pairs, lora.pairs):
        theirs.down.data, theirs.up.data = ours.down.data, ours.up.data[0]
    assert torch.allclose(plain(*inputs(t)), want, atol=1e-5)
    timed.merge()
    assert torch.allclose(model(*inputs(t)), want, atol=1e-4)


def test_merged_at_a_time_it_is_right_at_all_times():
    model, t = net(), torch.tensor([0.1, 0.4, 0.9])
    adapter = shaken(model)
    want = model(*inputs(t))
    for at in (None, 0.4):
        adapter.merge(at)
        assert torch.allclose(model(*inputs(t)), want, rtol=1e-4, atol=1e-5)
        adapter.unmerge()
    assert torch.equal(model(*inputs(t)), want)
    adapter.merge(0.4)
    bare = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(OrnsteinError, match="is merged at strength 1.0"):
        adapter.strength = 2.0
    adapter.detach()
    mine = torch.full((2,), 0.4)
    fresh = net()
    again = shaken(fresh)
    assert torch.allclose(model(*inputs(mine)), fresh(*inputs(mine)), rtol=1e-4, atol=1e-5), "merged for good, at that time"
    assert all(torch.equal(p, bare[n]) for n, p in model.named_parameters()) and not again.merged and not attached(model)


def test_strength_and_times_of_rows():
    model, t = net(), torch.tensor([0.15, 0.5, 0.85])
    plain, adapter = model(*inputs(t)), shaken(model)
    together = model(*inputs(t))
    x, _, cond = inputs(t)
    for k in range(3):
        alone = model(x[k : k + 1], t[k : k + 1], {"label": cond["label"][k : k + 1]})
        assert torch.allclose(alone[0], together[k], atol=1e-5)
    same = model(x, torch.full((3,), 0.5), cond)
    assert torch.allclose(same[1], together[1], atol=1e-5) and not torch.allclose(same[0], together[0], atol=1e-3)
    adapter.strength = 0
    assert torch.equal(model(*inputs(t)), plain)


def test_threads_and_failures_do_not_mix_their_times():
    model, found = net(), {}
    shaken(model)
    want = {t: model(*inputs(torch.full((2,), t))) for t in (0.1, 0.9)}

    def ask(t):
        found[t] = [model(*inputs(torch.full((2,), t))) for _ in range(10)]

    threads = [threading.Thread(target=ask, args=(t,)) for t in want]
    [t.start() for t in threads], [t.join() for t in threads]
    assert all(torch.equal(x, want[t]) for t, many in found.items() for x in many)
    with pytest.raises((OrnsteinError, RuntimeError)):
        model(torch.zeros(2, 3, 8, 8), torch.zeros(2))
    with pytest.raises(OrnsteinError, match="run outside of its network"):
        model.blocks[0].attn.qkv(torch.zeros(2, 4, 32))


def test_a_network_without_a_time_is_refused():
    with pytest.raises(OrnsteinError, match="is told no time"):
        TDLoRA(roles=("other",))(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(OrnsteinError, match="does nothing"):
        TDLoRA(experts=0)


def draw(model, plugin):
    detach = attach(model, plugin)
    try:
        denoiser = Denoiser(model, catalog.build("processes", "flow"))
        return sample(denoiser, (3, 1, 8, 8), catalog.build("solvers", "ddim"), 4, cond={"label": torch.arange(3)})
    finally:
        detach()


def test_on_a_network_of_dynamic_width():
    """Slim heads are those heads of the adapted network; an mlp's own adapter is refused, not ignored."""
    model = net()
    shaken(model, roles=("qkv", "attention_out", "temporal"))
    bare, adapted = net(), draw(model, DyDiT(width=0.5, high=1.0))
    assert not torch.allclose(adapted, draw(bare, DyDiT(width=0.5, high=1.0)), atol=1e-3)
    assert not torch.allclose(adapted, draw(model, DyDiT(width=1.0)), atol=1e-3)
    for roles in (("qkv", "attention_out"), ("qkv",)):
        one, folded = net(), net()
        shaken(one, experts=1, roles=roles)
        shaken(folded, experts=1, roles=roles).merge()
        assert torch.allclose(*(draw(m, DyDiT(width=0.5, high=1.0)) for m in (one, folded)), atol=1e-4)
    other = net()
    shaken(other, roles=("ffn",))
    with pytest.raises(OrnsteinError, match="not two plain linear layers"):
        draw(other, DyDiT(width=0.5, high=1.0))


def test_with_parts_that_compute_some_rows():
    """Rows of one time go on, whichever are computed; rows at times of their own are refused where some are left out."""
    model = net()
    shaken(model)
    assert draw(model, FirstBlock(0.4)).isfinite().all()
    assert torch.equal(draw(model, Skip()), draw(model, FirstBlock(0.0)))
    adapter = attached(model)["default"]
    adapter.begin(model, inputs(torch.tensor([0.1, 0.2, 0.3])), {})
    with pytest.raises(OrnsteinError, match="2 rows of 3 at times of their own"):
        adapter.mixture(2)
    adapter.end(model, (), None)
