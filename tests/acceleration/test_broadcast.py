"""What the contract leaves unsaid of attention broadcast: roles with intervals of their own, the window, rows by themselves."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.broadcast import Broadcast
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, gather, running
from ornstein.core.sites import Seat


class Part(nn.Module):
    seat: ClassVar[Seat] = Seat("branch", "attention")

    def forward(self, x):
        return x.clone()


class Cross(Part):
    seat: ClassVar[Seat] = Seat("branch", "cross_attention")


class Mlp(Part):
    seat: ClassVar[Seat] = Seat("branch", "mlp")


class Holder(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.temporal_attn, self.cross, self.mlp = Part(), Part(), Cross(), Mlp()

    def forward(self, x):
        return torch.stack([self.attn(x), self.temporal_attn(x), self.cross(x), self.mlp(x)], 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Holder()])

    def forward(self, x):
        return self.blocks[0](x)


def answers(plugin, times):
    """What each branch says [K, B, 4] when fed with the number of the evaluation, at times [K] or [K, B]."""
    net, run, out = Net(), Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k, t in enumerate(times):
                with calling(Clock(k, t=t, ids=(0, 1))):
                    out.append(net(torch.full((2, 1), float(k)))[..., 0])
    finally:
        detach()
    return torch.stack(out), run


def test_each_role_has_its_interval():
    out, run = answers(Broadcast(2, 6, 4, 1, (0, 1)), torch.linspace(1, 0, 12))
    for role, interval in enumerate((2, 4, 6, 1)):
        assert out[:, 0, role].tolist() == [k - k % interval for k in range(12)]
    computed = {name.split(".")[-1].split("/")[0]: n for name, n in run.record.computed_at.items()}
    assert computed == {"attn": 6, "temporal_attn": 3, "cross": 2}  # the mlp is left alone


def test_outside_of_the_window_everything_is_computed():
    times = torch.linspace(1, 0, 11)  # 1.0, 0.9, ...
    out, _ = answers(Broadcast(4, 1, 1, 1, (0.25, 0.75)), times)
    assert out[:, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 6, 6, 8, 9, 10]


def test_rows_at_times_of_their_own_decide_for_themselves():
    down = torch.linspace(1, 0, 11)
    out, run = answers(Broadcast(4, 1, 1, 1, (0.25, 0.75)), torch.stack([down, down.flip(0)], 1))
    assert out[:, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 6, 6, 8, 9, 10]
    assert out[:, 1, 0].tolist() == [0, 1, 2, 2, 2, 2, 6, 6, 8, 9, 10]  # the same window from the other side
    early, _ = answers(Broadcast(4, 1, 1, 1, (0.45, 1.0)), torch.stack([down, down.flip(0)], 1))
    assert early[:, 0, 0].tolist() == [0, 0, 0, 0, 4, 4, 6, 7, 8, 9, 10]
    assert early[:, 1, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 8, 8, 8]


def test_memory_can_be_gathered():
    """Ages and outputs have the samples first."""
    _, run = answers(Broadcast(4, 1, 1, 1, (0.45, 1.0)), torch.stack([torch.linspace(1, 0, 4), torch.linspace(0, 1, 4)], 1))
    memory = next(iter(run.memories.values()))
    swapped = gather(memory, torch.tensor([1, 0]), 2)
    assert torch.equal(swapped["age"]["attention"], memory["age"]["attention"].flip(0))
    assert not torch.equal(swapped["age"]["attention"], memory["age"]["attention"])


def test_senseless_settings_are_refused():
    for settings in ({"attention": 0}, {"mlp": 0}, {"window": (0.5, 0.5)}):
        with pytest.raises(OrnsteinError, match="at least 1"):
            Broadcast(**settings)
