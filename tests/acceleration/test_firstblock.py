"""What the contract leaves unsaid of the first-block cache: stages, limits, and what it says of a U-Net."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.firstblock import FirstBlock
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Add(nn.Module):
    """x + amount + slope * x."""

    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, amount: float, slope: float) -> None:
        super().__init__()
        self.amount, self.slope, self.rows = amount, slope, 0

    def forward(self, x):
        self.rows += len(x)
        return x + self.amount + self.slope * x


class TwoStages(nn.Module):
    """Three blocks, a change of stream (twice as many tokens), three more blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.ModuleList(Add(1.0, s) for s in (0.0, 0.5, 0.5))
        self.two = nn.ModuleList(Add(10.0, s) for s in (0.5, 0.0, 0.5))

    def forward(self, x):
        for block in self.one:
            x = block(x)
        x = torch.cat([x, 100 * x], 1)
        for block in self.two:
            x = block(x)
        return x


def calls(net, plugin, inputs):
    detach, out, run = attach(net, plugin), [], Run()
    try:
        with running(run):
            for k, x in enumerate(inputs):
                with calling(Clock(k, ids=(0, 1))):
                    out.append(net(x))
    finally:
        detach()
    return out, run


def test_each_stage_adds_its_own_residual():
    net, x = TwoStages(), torch.tensor([[1.0], [2.0]])
    (full, reused), run = calls(net, FirstBlock(0.5), [x, x + 0.25])
    assert torch.equal(full, net(x))
    after_first, after_one = x + 1, (x + 1) * 2.25 + 2.5
    one = x + 0.25 + 1 + (after_one - after_first)
    joined, before = torch.cat([one, 100 * one], 1), torch.cat([after_one, 100 * after_one], 1)
    assert torch.allclose(reused, joined + (net(x) - before))
    assert run.record.computed_at["one.0/block"] == 2 and run.record.computed_at["two.0/block"] == 1


class Told(nn.Module):
    """Blocks whose first residual is the input itself, so that the gate sees what the test feeds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Add(0.0, 1.0) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_the_gate_looks_at_the_last_full_evaluation_of_each_sample():
    """Row 0 creeps by 6 % and must be computed again as the changes add up; row 1 stands still."""
    net = Told()
    inputs = [torch.tensor([[1.0 + 0.06 * k], [1.0]]) for k in range(4)]
    out, run = calls(net, FirstBlock(0.1), inputs)
    assert net.blocks[0].rows == 8 and net.blocks[2].rows == 3, "only the rows that need it are computed"
    kept = [k for k in range(4) if torch.allclose(out[k][0], net(inputs[k])[0])]
    assert kept == [0, 2] and all(torch.allclose(out[k][1], net(inputs[k])[1]) for k in range(4))
    assert run.record.facts["firstblock"]["cond"]["samples_skipped"] == 5


def test_limit_and_warmup():
    x = torch.ones(2, 1)
    _, run = calls(Told(), FirstBlock(0.1, warmup=2), [x] * 6)
    assert run.record.computed_at["blocks.2/block"] == 2
    _, run = calls(Told(), FirstBlock(0.1, limit=2), [x] * 7)
    assert run.record.computed_at["blocks.2/block"] == 3  # 0, 3, 6


def test_a_number_that_is_none_is_computed():
    x = torch.tensor([[float("nan")], [1.0]])
    _, run = calls(Told(), FirstBlock(0.1), [x] * 3)
    assert run.record.facts["firstblock"]["cond"]["samples_skipped"] == 2


def test_a_unet_is_refused_in_words():
    unet = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2),attention_levels=()")
    with pytest.raises(OrnsteinError, match="FirstBlock does not fit a U-Net.*Use deepcache"):
        attach(unet, FirstBlock())
