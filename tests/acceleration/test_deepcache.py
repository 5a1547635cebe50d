"""What the contract leaves unsaid of DeepCache: which part is old and which is new, schedules, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ornstein.acceleration.deepcache import DeepCache, uneven
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running


def unet():
    net = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2,2),attention_levels=(1,)")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return net.requires_grad_(False)


@pytest.mark.parametrize("branch", [1, 2])
def test_a_cheap_evaluation_is_new_outside_and_old_inside(branch):
    """Against the equation: the skips, the modulation and the last levels of now, with F of the full evaluation."""
    net, run = unet(), Run()
    x, y, t, s = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.full((2,), 0.9), torch.full((2,), 0.6)
    detach = attach(net, DeepCache(2, branch))
    with running(run):
        with calling(Clock(0, ids=(0, 1))):
            net(x, t)
        with calling(Clock(1, ids=(0, 1))):
            cheap = net(y, s)
    detach()
    old = net.context(t, None, 2)
    skips, h = net.encode(x, old)
    for k, stage in enumerate(net.up[: 3 - branch]):
        h = stage(h, skips[-1 - k], *old)
    now = net.context(s, None, 2)
    outer, z = [], net.embed(y)
    for stage in net.down[:branch]:
        z, kept = stage(z, *now)
        outer.append(kept)
    for k, stage in enumerate(net.up[3 - branch :]):
        h = stage(h, outer[branch - 1 - k], *now)
    assert torch.equal(cheap, net.head(F.silu(net.norm(h))))
    computed = run.record.computed_at
    assert computed["down.0/stage"] == computed["up.2/stage"] == 2 and computed["mid/stage"] == 1


def draw(net, plugin, solver="ddim", steps=7):
    run, process = Run(), catalog.build("processes", "flow")
    detach = attach(net, plugin)
    denoiser = Denoiser(net, process)
    sample(denoiser, (2, 1, 8, 8), catalog.build("solvers", solver), steps, run=run)
    detach()
    return run.record


def test_schedules_count_evaluations():
    net = unet()
    assert draw(net, DeepCache(3)).computed_at["mid/stage"] == 3  # 0, 3, 6
    assert draw(net, DeepCache(full_at=(2, 3))).computed_at["mid/stage"] == 3  # 0 always, 2, 3
    heun = draw(net, DeepCache(3), "heun")
    assert heun.computed_at["mid/stage"] == -(-heun.calls["evaluations"] // 3) and heun.calls["evaluations"] == 13


def test_uneven_lists():
    assert uneven(12, 4, 6, 1.0) == (0, 3, 6, 9)
    dense = uneven(50, 10, 15, 1.4)
    gaps = [b - a for a, b in zip(dense, dense[1:])]
    assert dense[0] == 0 and max(dense) < 50 and min(gaps) < 5 < max(gaps)
    near = min(range(len(gaps)), key=lambda i: abs(dense[i] - 15))
    assert gaps[near] == min(gaps)


def test_refusals():
    with pytest.raises(OrnsteinError, match="would recompute all of a U-Net of 3 levels.*at most 2"):
        attach(unet(), DeepCache(branch=3))
    with pytest.raises(OrnsteinError, match="needs a U-Net.*firstblock or taylorseer"):
        attach(catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=2"), DeepCache())
    with pytest.raises(OrnsteinError, match="at least 1"):
        DeepCache(interval=0)
