"""What the contract leaves unsaid of MagCache: its schedule, its ratios for another number of steps, its calibration."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from ornstein.acceleration.magcache import DIGITS, MagCache, calibrate, resampled
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat


class Add(nn.Module):
    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def forward(self, x):
        return x + x.abs()


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Add() for _ in range(3))

    def forward(self, x, t=None, cond=None):
        for block in self.blocks:
            x = block(x)
        return x


def computed(plugin, steps):
    """The steps at which the blocks were computed."""
    net, run, full = Chain(), Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k in range(steps):
                before = run.record.computed_at["blocks.1/block"]
                with calling(Clock(k, 0, steps, ids=(0,))):
                    out = net(torch.tensor([[1.0 + k]]))
                if run.record.computed_at["blocks.1/block"] > before:
                    full.append(k)
                    residual = 7 * (1.0 + k)
                assert out.item() == pytest.approx(1.0 + k + residual)
    finally:
        detach()
    return full


def test_the_schedule_by_hand():
    """gamma = 0.9: products 0.9, 0.81, 0.729, errors 0.1, 0.29, 0.561."""
    ratios = (1.0, *[0.9] * 9)
    assert computed(MagCache(0.3, 5, 0.2, ratios), 10) == [0, 1, 4, 7]
    assert computed(MagCache(0.05, 5, 0.2, ratios), 10) == list(range(10))
    assert computed(MagCache(9.0, 2, 0.2, ratios), 10) == [0, 1, 4, 7]
    assert computed(MagCache(9.0, 2, 0.5, ratios), 10) == [0, 1, 2, 3, 4, 7]
    assert computed(MagCache(0.0, 2, 0.0, ratios), 10) == list(range(10))


def test_ratios_of_another_number_of_steps_keep_the_growth():
    ratios = tuple(1 + 0.1 * math.sin(k) for k in range(21))
    assert resampled(ratios, 21) == pytest.approx((1.0, *ratios[1:]))
    for steps in (6, 11, 41):
        got = resampled(ratios, steps)
        assert len(got) == steps and math.prod(got) == pytest.approx(math.prod(ratios[1:]))
    assert resampled(ratios, 11) == pytest.approx((1.0, *(ratios[k] * ratios[k + 1] for k in range(1, 21, 2))))
    assert resampled(ratios, 11, True) == ratios[::2]
    assert resampled(ratios, 1) == (1.0,) and len(resampled(DIGITS, 1, True)) == 1


def test_calibration_measures_the_residuals(tmp_path):
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=3,heads=2,classes=10")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    denoiser, seen = Denoiser(net.eval(), catalog.build("processes", "flow")), []
    hooks = [net.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0])),
             net.blocks[2].register_forward_hook(lambda m, a, o: seen.append(o - seen.pop()))]  # fmt: skip
    cond = {"label": torch.arange(3)}
    found = calibrate(denoiser, (3, 1, 8, 8), catalog.build("solvers", "ddim"), 6, cond=cond)
    for hook in hooks:
        hook.remove()
    norms = [r.norm(dim=-1) for r in seen]
    expected = [1.0, *(float((b / a).mean()) for a, b in zip(norms, norms[1:]))]
    assert found.arrays["ratios"].tolist() == pytest.approx(expected, rel=1e-5)
    plugin = MagCache(calibrated=found.save(tmp_path / "mag.safetensors"))
    assert plugin.ratios == tuple(found.arrays["ratios"].tolist()) and found.made_for["grid"] == "uniform"
    with pytest.raises(OrnsteinError, match="asked 11 times in 6 steps.*Calibrate with ddim"):
        calibrate(denoiser, (3, 1, 8, 8), catalog.build("solvers", "heun"), 6, cond=cond)


@pytest.mark.parametrize("ratios", [(), (1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, math.nan)])
def test_senseless_ratios_are_refused(ratios):
    with pytest.raises(OrnsteinError, match="positive ratios"):
        MagCache(ratios=ratios)


def test_it_says_where_it_does_not_fit():
    unet = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2),attention_levels=()")
    with pytest.raises(OrnsteinError, match="MagCache does not fit a U-Net.*Use deepcache"):
        attach(unet, MagCache())
