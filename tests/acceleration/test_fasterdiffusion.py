"""What the contract leaves unsaid of Faster Diffusion: what the decoder is fed with, key steps, noise injection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.acceleration.fasterdiffusion import FasterDiffusion, PriorNoise, paper_keys
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach, calling, running


def unet():
    torch.manual_seed(2)
    net = catalog.build("backbones", "unet:channels=1,width=16,multipliers=(1,2,2),attention_levels=(1,)")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.15)
    return net.requires_grad_(False)


def test_between_key_steps_the_decoder_has_old_features_and_the_present_time():
    net, run = unet(), Run()
    x, y, t, s = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.full((2,), 0.9), torch.full((2,), 0.6)
    detach = attach(net, FasterDiffusion(2))
    with running(run):
        with calling(Clock(0, ids=(0, 1))):
            net(x, t)
        with calling(Clock(1, ids=(0, 1))):
            cheap = net(y, s)
    detach()
    skips, mid = net.encode(x, net.context(t, None, 2))
    assert torch.equal(cheap, net.decode(mid, skips, net.context(s, None, 2)))
    assert run.record.computed_at["down.0/stage"] == run.record.computed_at["mid/stage"] == 1


def record(plugin, solver="ddim", steps=10):
    net, run = unet(), Run()
    detach = attach(net, plugin)
    sample(Denoiser(net, catalog.build("processes", "flow")), (2, 1, 8, 8), catalog.build("solvers", solver), steps, run=run)
    detach()
    return run.record


def test_key_steps():
    assert paper_keys(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert paper_keys(20) == (0, 1, 2, 4, 6, 10, 14) and paper_keys(1) == (0, 1)
    assert record(FasterDiffusion(), steps=20).computed_at["mid/stage"] == 7
    assert record(FasterDiffusion(key_at=(4, 5))).computed_at["mid/stage"] == 3  # the first always is
    assert record(FasterDiffusion(3)).computed_at["mid/stage"] == 4
    heun = record(FasterDiffusion(key_at=(0, 4)), "heun")
    assert heun.computed_at["mid/stage"] == 4  # both evaluations of a key step


def inject(strength, below):
    net, seen = unet(), []
    out = sample(Denoiser(net, catalog.build("processes", "flow")), (2, 1, 8, 8), catalog.build("solvers", "ddim"), 4,
                 controllers=[PriorNoise(strength, below)], progress=lambda state, steps: seen.append(state.x))  # fmt: skip
    return out, seen


def test_prior_noise_comes_late_and_never_last():
    plain, before = inject(0.0, 0.5)
    out, after = inject(0.003, 0.5)
    assert not torch.equal(out, plain)
    moved = [not torch.equal(a, b) for a, b in zip(after, before)]
    assert moved == [False, False, True, True]  # times 0.75, 0.5, 0.25, 0
    noise = (after[2] - before[2]) / 0.003
    assert noise.std() == pytest.approx(1.0, abs=0.2)
    assert torch.equal(inject(0.003, 0.2)[0], plain)  # only the last step ends below, which is left alone


def test_refusals():
    with pytest.raises(OrnsteinError, match="needs a U-Net.*spandelta"):
        attach(catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=2"), FasterDiffusion())
    for settings in ({"interval": -1}, {"interval": 2, "key_at": (0,)}):
        with pytest.raises(OrnsteinError, match="at least 1"):
            FasterDiffusion(**settings)
