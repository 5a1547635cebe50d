"""What the contract leaves unsaid of Delta-DiT: what is added where, when the span moves, refusals."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.spandelta import SpanDelta
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Add(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.inner = k, nn.Identity()

    def forward(self, x):
        return x + (self.k + 1) * x.square() / 8


class Tower(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Add(k) for k in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def states(net, x):
    """The residual stream before each block, and after the last."""
    out = [x]
    for block in net.blocks:
        out.append(block(out[-1]))
    return out


def answers(net, plugin, inputs, steps=None):
    detach, run, out = attach(net, plugin), Run(), []
    try:
        with running(run):
            for k, x in enumerate(inputs):
                with calling(Clock(k, steps=steps or len(inputs), ids=tuple(range(len(x))))):
                    out.append(net(x))
    finally:
        detach()
    return out, run.record


INPUTS = [torch.linspace(0.1, 0.9, 6).reshape(2, 3).roll(k, 1) * (1 + 0.1 * k) for k in range(8)]


def test_the_equation_before_and_after_the_switch():
    net = Tower()
    out, record = answers(net, SpanDelta(2, 0.5, 0.5), INPUTS)
    old, now = states(net, INPUTS[0]), states(net, INPUTS[1])
    assert torch.equal(out[1], now[2] + (old[4] - old[2]))  # rear: the first two blocks of now, the others' old offset
    old = states(net, INPUTS[4])
    late = INPUTS[5] + (old[2] - old[0])  # front: the input of now and the old offset of the first two, then the others
    assert torch.equal(out[5], net.blocks[3](net.blocks[2](late)))
    assert [torch.equal(o, net(x)) for o, x in zip(out, INPUTS)] == [True, False] * 4
    assert [record.computed_at[f"blocks.{k}/block"] for k in range(4)] == [6, 6, 6, 6]


def test_the_span_moves_without_a_full_evaluation_of_its_own():
    """With N = 4 of 8 steps and the switch after 2, evaluation 2 takes the front offset of evaluation 0."""
    net = Tower()
    out, record = answers(net, SpanDelta(4, 0.5, 0.25), INPUTS)
    old = states(net, INPUTS[0])
    assert torch.equal(out[2], net.blocks[3](net.blocks[2](INPUTS[2] + (old[2] - old[0]))))
    facts = record.facts["spandelta"]["cond"]
    assert facts["evaluations_with_a_span_skipped"] == 6 and facts["cache_bytes"] == 2 * 6 * 4


@pytest.mark.parametrize("order, skipped", [("rear", (2, 3)), ("front", (0, 1)), ("front_rear", (0, 1))])
def test_orders(order, skipped):
    _, record = answers(Tower(), SpanDelta(8, 0.5, 1.0, order), INPUTS)
    assert [k for k in range(4) if record.computed_at[f"blocks.{k}/block"] == 1] == list(skipped)


def test_the_old_output_instead_of_the_offset():
    net = Tower()
    out, _ = answers(net, SpanDelta(8, 0.5, 1.0, "front", offset=False), INPUTS)
    assert all(torch.equal(o, out[0]) for o in out)  # the input is forgotten: nothing new enters the network


def test_one_block_at_least_is_skipped_and_one_computed():
    for share, computed in ((0.01, 3), (0.99, 1)):
        _, record = answers(Tower(), SpanDelta(8, share, 1.0), INPUTS)
        assert sum(record.computed_at[f"blocks.{k}/block"] == 8 for k in range(4)) == computed


def test_refusals():
    with pytest.raises(OrnsteinError, match="rear_front"):
        SpanDelta(order="rear_fornt")
    for settings in ({"interval": 0}, {"share": 1.0}, {"share": 0.0}, {"switch": 1.5}):
        with pytest.raises(OrnsteinError, match="share between 0 and 1"):
            SpanDelta(**settings)
    with pytest.raises(OrnsteinError, match="does not fit a U-Net.*fasterdiffusion"):
        attach(catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2)"), SpanDelta())
    with pytest.raises(OrnsteinError, match="would do nothing"):
        attach(Tower(1), SpanDelta())
