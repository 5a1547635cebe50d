"""What the contract leaves unsaid of TeaCache: what it adds up, what it leaves uncomputed, and its calibration."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.teacache import TeaCache, calibrate
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Branch(nn.Module):
    seat: ClassVar[Seat] = Seat("branch", "mlp")

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return x


class Block(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def __init__(self, branch: bool = True) -> None:
        super().__init__()
        self.mlp, self.rows = (Branch() if branch else nn.Identity()), 0

    def forward(self, x):
        self.rows += len(x)
        return x + self.mlp(10 * x)


class Told(nn.Module):
    def __init__(self, branch: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(branch) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def calls(net, plugin, inputs, steps=100):
    detach, out, run = attach(net, plugin), [], Run()
    try:
        with running(run):
            for k, x in enumerate(inputs):
                with calling(Clock(k, 0, steps, ids=(0, 1))):
                    out.append(net(x))
    finally:
        detach()
    return out, run


def creeping(count, step=0.06):
    return [torch.tensor([[1.0 + step * k], [1.0]]) for k in range(count)]


def test_changes_from_one_evaluation_to_the_next_add_up():
    """0.06, then 0.06/1.06 more, which together pass 0.1: row 0 is computed again; row 1 stands still and never is."""
    net, inputs = Told(), creeping(5)
    out, run = calls(net, TeaCache(0.1), inputs)
    grown = 11**3
    kept = [k for k in range(5) if torch.allclose(out[k][0], grown * inputs[k][0])]
    assert kept == [0, 2, 4] and all(torch.allclose(o[1], torch.tensor([grown * 1.0])) for o in out)
    assert torch.allclose(out[1][0], inputs[1][0] + (grown - 1) * inputs[0][0]), "the residual of the last full one"
    assert run.record.facts["teacache"]["cond"]["samples_skipped"] == 4 + 2
    assert net.blocks[0].mlp.rows == net.blocks[2].rows == 2 + 2, "no branch is computed for a row that skips"


def test_the_polynomial_stretches_the_change():
    once = calls(Told(), TeaCache(0.1), creeping(5))[1].record.facts["teacache"]["cond"]["samples_skipped"]
    assert calls(Told(), TeaCache(0.1, (0.0, 2.0)), creeping(5))[1].record.facts["teacache"]["cond"]["samples_skipped"] == 4
    assert calls(Told(), TeaCache(0.1, (0.0, 0.5)), creeping(5))[1].record.facts["teacache"]["cond"]["samples_skipped"] > once
    never = calls(Told(), TeaCache(0.1, (0.2, 0.0)), creeping(5))[1]
    assert never.record.facts["teacache"]["cond"]["samples_skipped"] == 0


def test_warmup_the_last_step_and_a_number_that_is_none():
    still = [torch.ones(2, 1)] * 6
    assert calls(Told(), TeaCache(0.1, warmup=3), still)[1].record.computed_at["blocks.2/block"] == 3
    assert calls(Told(), TeaCache(0.1), still, steps=6)[1].record.computed_at["blocks.2/block"] == 2
    nan = [torch.tensor([[float("nan")], [1.0]])] * 3
    assert calls(Told(), TeaCache(0.1), nan)[1].record.facts["teacache"]["cond"]["samples_skipped"] == 2


def test_calibration_finds_the_law_and_is_kept_in_a_file(tmp_path):
    torch.manual_seed(0)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=3,heads=2,classes=10")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    denoiser = Denoiser(net.eval(), catalog.build("processes", "flow"))
    ddim, cond = catalog.build("solvers", "ddim"), {"label": torch.arange(4)}
    found = calibrate(denoiser, (4, 1, 8, 8), ddim, 8, cond=cond, degree=2)
    assert not any("forward" in m.__dict__ for m in net.modules())
    assert len(found.arrays["coefficients"]) == 3 and 0 <= found.settings["unexplained"] < 1
    assert found.made_for["shape"] == "1x8x8" and found.made_for["model"]
    plugin = TeaCache(calibrated=found.save(tmp_path / "tea.safetensors"))
    assert plugin.coefficients == tuple(found.arrays["coefficients"].tolist())
    detach = attach(net, plugin)
    try:
        assert sample(denoiser, (4, 1, 8, 8), ddim, 8, cond=cond).isfinite().all()
    finally:
        detach()
    with pytest.raises(OrnsteinError, match="holds 'teacache', not 'magcache'"):
        catalog.load("acceleration", "magcache")(calibrated=tmp_path / "tea.safetensors")


def test_it_says_where_it_does_not_fit():
    unet = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2),attention_levels=()")
    with pytest.raises(OrnsteinError, match="TeaCache does not fit a U-Net.*Use deepcache"):
        attach(unet, TeaCache())
    with pytest.raises(OrnsteinError, match="would do nothing"):
        attach(Told(branch=False), TeaCache())
