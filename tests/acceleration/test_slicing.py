"""What the contract leaves unsaid of slicing: what is cut, what is counted, masks, memory, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import denoiser
from torch import nn

from ornstein.acceleration.slicing import Slicing
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.effects import order
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat
from ornstein.evidence.acceleration._memory import Live, peak


def ask(net, plugin, *inputs):
    run = Run()
    detach = attach(net, plugin)
    try:
        with running(run), calling(Clock(ids=tuple(range(len(inputs[0]))))):
            return net(*inputs), run
    finally:
        detach()


def inputs(rows=5):
    source = torch.Generator().manual_seed(0)
    return torch.randn(rows, 1, 8, 8, generator=source), torch.rand(rows, generator=source), {"label": torch.arange(rows)}


def test_each_axis_is_cut_and_the_answer_stays():
    net, x = denoiser().backbone, inputs()
    plain, seen = net(*x), {"blocks.1.norm1": [], "blocks.1.mlp.0": []}
    hooks = [net.get_submodule(n).register_forward_pre_hook(lambda m, a, n=n: seen[n].append(tuple(a[0].shape[:2]))) for n in seen]
    three, tokens = [(2, 16), (2, 16), (1, 16)], [7, 7, 2]
    for settings, blocks, mlps, slices in (
        ((2, 0, 0), three, three, 3 + 3 + 3), ((0, 7, 0), [(5, 16)], [(5, n) for n in tokens], 1 + 3 + 1),
        ((0, 0, 5), [(5, 16)], [(5, 16)], 1 + 1 + 4),
        ((2, 7, 5), three, [(b, n) for b, _ in three for n in tokens], 3 + 3 * 3 + 3 * 4)):  # fmt: skip
        out, run = ask(net, Slicing(*settings), *x)
        assert torch.allclose(out, plain, atol=1e-5)
        assert list(seen.values()) == [blocks, mlps]
        assert run.record.skipped() == pytest.approx(0, abs=1e-9)
        assert run.record.left_by["Slicing"] == pytest.approx(0, abs=1e-6)
        assert run.record.facts["slicing"]["cond"]["slices"] == 4 * slices, settings
        for v in seen.values():
            v.clear()
    for hook in hooks:
        hook.remove()


class Attention(nn.Module):
    seat = Seat("branch", "attention")

    def __init__(self, **settings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x, mask=None):
        q = x[:, None]
        return F.scaled_dot_product_attention(q, q * 2, q - 1, attn_mask=mask, **self.settings)[:, 0]


class Block(nn.Module):
    seat = Seat("block", streams=("x",))

    def __init__(self, **settings) -> None:
        super().__init__()
        self.attn = Attention(**settings)

    def forward(self, x, mask=None):
        return x + self.attn(x, mask)


class Net(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(**settings)])

    def forward(self, x, mask=None):
        return self.blocks[0](x, mask)


@pytest.mark.parametrize("form", [(6, 6), (1, 6), (2, 1, 6, 6), (2, 1, 1, 6), None])
def test_masks_are_cut_with_their_queries(form):
    x, net = torch.randn(2, 6, 8), Net()
    mask = None if form is None else torch.rand(form) > 0.3
    if mask is not None:
        mask[..., 0] = True
    assert torch.allclose(ask(net, Slicing(0, 0, 4), x, mask)[0], net(x, mask), atol=1e-6)


def test_a_causal_attention_is_left_whole():
    x, net = torch.randn(2, 6, 8), Net(is_causal=True)
    out, run = ask(net, Slicing(0, 0, 4), x)
    assert torch.equal(out, net(x)) and run.record.facts["slicing"]["cond"]["slices"] == 2


def test_peak_memory_falls_with_the_slices():
    net, x = denoiser().backbone, inputs(4)
    seen = [peak(lambda s=s: ask(net, Slicing(*s), *x)) for s in ((0, 0, 0), (2, 0, 0), (1, 4, 0))]
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.6 * seen[0], seen


def test_live_bytes_are_those_of_storages():
    x = torch.zeros(1000)

    def work():
        y = x + 1  # 4000
        z = y.view(10, 100)[:5] * 2  # 2000 more, and a view is nothing
        del y
        return z.double()  # 4000 more, after 4000 less

    assert peak(work) == 6000
    with Live() as live:
        work()
    assert live.now == 0


def test_gradients_go_through():
    net, x = denoiser().backbone, inputs(3)
    grads = []
    for plugin in (None, Slicing(1, 4, 4)):
        leaf = x[0].clone().requires_grad_()
        out = net(leaf, *x[1:]) if plugin is None else ask(net, plugin, leaf, *x[1:])[0]
        grads.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    assert torch.allclose(*grads, atol=1e-4) and grads[0].abs().max() > 0


def test_refusals():
    with pytest.raises(OrnsteinError, match="None is negative"):
        Slicing(rows=-1)


def test_parts_whose_memory_spans_a_block_and_its_inside_want_whole_rows():
    """They work with slices of tokens and queries, and are refused with slices of rows."""
    net = denoiser().backbone
    for name in ("ras", "teacache"):
        part = catalog.build("acceleration", name)
        with pytest.raises(OrnsteinError, match="would both decide rows"):
            attach(net, [part, Slicing()])
        plain = ask(net, part, *inputs())[0]
        assert torch.allclose(ask(net, order([Slicing(0, 7, 5), part]), *inputs())[0], plain, atol=1e-5)
