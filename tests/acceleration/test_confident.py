"""What the contract leaves unsaid of the confidence-gated forecast: its tables, its gate, its threshold."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.confident import Confident
from ornstein.acceleration.layers.forecast import forecast, lagrange, push, series
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Times(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.rows = factor, 0

    def forward(self, x):
        self.rows += len(x)
        return x * self.factor


class Chain(nn.Module):
    def __init__(self, factors=(2.0, 3.0, 5.0, 7.0)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Times(f) for f in factors)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def calls(net, plugin, inputs, steps=100, times=None):
    detach, out, run = attach(net, plugin), [], Run()
    try:
        with running(run):
            for k, x in enumerate(inputs):
                t = 1 - k / steps if times is None else times[k]
                with calling(Clock(k, 0, steps, t, ids=tuple(range(len(x))))):
                    out.append(net(x))
    finally:
        detach()
    return torch.stack(out), run


LINE = torch.arange(8.0)[:, None] + 1
JUMPS = torch.tensor([[1.0], [3.0], [-2.0], [5.0], [-7.0], [4.0], [-1.0], [9.0]])


def test_a_row_that_is_foretold_skips_beside_one_that_is_not():
    net, inputs = Chain(), torch.stack([LINE, JUMPS], 1)
    out, run = calls(net, Confident(0.01, check_order=1), inputs)
    assert torch.allclose(out, 210 * inputs, rtol=1e-4)
    assert run.record.facts["confident"]["cond"]["samples_skipped"] == 5
    # besides the eight of the test's own: the first block is always computed, the others for what is not foretold
    assert net.blocks[0].rows == 16 and net.blocks[1].rows == net.blocks[3].rows == 16 - 5


@pytest.mark.parametrize("payload", ["output", "residual"])
@pytest.mark.parametrize("faithful", [False, True])
def test_a_line_is_forecast_exactly_and_the_payloads_say_the_same_of_it(payload, faithful):
    out, run = calls(Chain(), Confident(1e-3, check_order=1, payload=payload, faithful=faithful), LINE[:, None])
    assert torch.allclose(out, 210 * LINE[:, None], rtol=1e-4)
    assert run.record.facts["confident"]["cond"]["samples_skipped"] == 5


def test_the_gate_looks_at_the_chosen_block_and_the_order():
    square = LINE**2
    _, run = calls(Chain(), Confident(1e-3, check_order=1), square[:, None])
    assert run.record.facts["confident"]["cond"]["samples_skipped"] == 0, "a line does not foretell a square"
    out, run = calls(Chain(), Confident(1e-3, check_order=2, order=2), square[:, None])
    assert run.record.facts["confident"]["cond"]["samples_skipped"] == 5
    assert torch.allclose(out, 210 * square[:, None], rtol=1e-4)
    net = Chain()
    calls(net, Confident(1e-3, check_order=1, verify=2), LINE[:, None])
    assert [b.rows for b in net.blocks] == [8, 8, 8, 3]


def test_limit_warmup_last_step_and_threshold_zero():
    def skips(steps=100, **settings):
        return calls(Chain(), Confident(**{"threshold": 0.01, "check_order": 1} | settings), LINE[:, None], steps)[1]

    assert skips(limit=1).record.facts["confident"]["cond"]["samples_skipped"] == 3  # 3, 5, 7
    assert skips(warmup=5).record.facts["confident"]["cond"]["samples_skipped"] == 3
    assert skips(steps=8).record.facts["confident"]["cond"]["samples_skipped"] == 4, "the last step is computed"
    assert skips(threshold=0.0).record.skipped() == 0


def test_the_threshold_falls_over_the_run():
    """A steady relative error lies below the threshold early in the run, and above it later."""
    bend = torch.tensor([1.3**k for k in range(8)])[:, None, None]
    plain = calls(Chain(), Confident(0.08, check_order=1, limit=1), bend, 8)[1].record
    falling = calls(Chain(), Confident(0.08, check_order=1, limit=1, decay=0.1), bend, 8)[1].record
    assert falling.skipped() < plain.skipped() > 0


def test_tables_of_rows_are_apart():
    """Row 1 was computed at 0, 1, 3; row 0 at 0, 1, 2: each polynomial goes through its own places."""
    def at(*v):
        return torch.tensor(v, dtype=torch.float64)

    def value(t):
        return {"x": (t**2)[:, None], "none": None}

    table = push(None, 3, at(0, 0), value(at(0, 0)))
    table = push(table, 3, at(1, 1), value(at(1, 1)))
    table = push(table, 3, at(2, 2), {"x": value(at(2, 2))["x"][:1], "none": None}, torch.tensor([0]))
    table = push(table, 3, at(3, 3), {"x": value(at(3, 3))["x"][1:], "none": None}, torch.tensor([1]))
    assert table["at"].tolist() == [[2, 1, 0], [3, 1, 0]]
    said = forecast(table, at(5, 5))
    assert torch.allclose(said["x"][:, 0], at(25, 25)) and said["none"] is None


def test_the_weights():
    nodes = torch.tensor([[6.0, 4.0, 2.0], [6.0, 6.0, 2.0], [6.0, 6.0, 6.0]], dtype=torch.float64)
    t = torch.full((3,), 7.0, dtype=torch.float64)
    square = nodes**2
    assert torch.allclose((lagrange(t, nodes) * square).sum(1), torch.tensor([49.0, 44.0, 36.0]).double())
    # the published series: 36 + 10 + 2 / 2; of two nodes at one place only the newer's own value is left
    assert torch.allclose((series(t, nodes) * square).sum(1), torch.tensor([47.0, 36.0, 36.0]).double())


@pytest.mark.parametrize("settings, words", [({"payload": "delta"}, "output"), ({"warmup": 0}, "at least"),
                                             ({"order": -1}, "at least")])  # fmt: skip
def test_senseless_settings_are_refused(settings, words):
    with pytest.raises(OrnsteinError, match=words):
        Confident(**settings)


def test_it_says_where_it_does_not_fit():
    with pytest.raises(OrnsteinError, match="leaves nothing of a stage of 4 blocks.*Verify block 2"):
        attach(Chain(), Confident(verify=3))
    unet = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2),attention_levels=()")
    with pytest.raises(OrnsteinError, match="Confident does not fit a U-Net.*Use deepcache"):
        attach(unet, Confident())
