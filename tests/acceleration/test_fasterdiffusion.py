"""What the contract leaves unsaid of Faster Diffusion: what the decoder is fed with, key steps, noise injection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.acceleration.fasterdiffusion import FasterDiffusion, PriorNoise, paper_keys
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, sample
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


class Shuffle(Controller):
    def after(self, before, now):
        return now.take(torch.tensor([2, 0, 1])) if now.step == 6 else now


class Ask:
    """Two branches of guidance."""

    def predict(self, inner, x, t, cond, clock):
        inner(x * 2, t, None, clock.at("uncond"))
        return inner(x, t, cond, clock)


def walk(solver="ddim", rule="uniform", wrap=None, controllers=(), **settings):
    net, run = unet(), Run()
    detach = attach(net, FasterDiffusion(**settings))
    try:
        d = Denoiser(net, catalog.build("processes", "flow"))
        return sample(guide(d, wrap) if wrap else d, (3, 1, 8, 8), catalog.build("solvers", solver), 12, run=run, seed=1,
                      rule=rule, controllers=controllers), run  # fmt: skip
    finally:
        detach()


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp2m"])
@pytest.mark.parametrize("settings", [{}, {"interval": 4}, {"key_at": (0, 3)}], ids=str)
def test_one_batch_says_what_the_decoders_say_in_turn(solver, settings):
    plain, one = walk(solver, "karras", **settings)
    together, two = walk(solver, "karras", parallel=True, **settings)
    assert torch.allclose(together, plain, atol=2e-6)
    assert one.record.computed_at["mid/stage"] == two.record.computed_at["mid/stage"]
    if solver != "heun":  # heun asks twice for one time
        assert one.record.asked_at["mid/stage"] == two.record.asked_at["mid/stage"] == 12
    if (solver, settings) == ("ddim", {"interval": 4}):  # of each span of three, two answers come without a computation
        assert two.record.left_by["FasterDiffusion"] == one.record.left_by["FasterDiffusion"] + 6


def test_a_batch_is_one_call_and_its_memory_is_told():
    net, rows = unet(), []
    hook = net.up[0].register_forward_hook(lambda module, inputs, out: rows.append(len(out)))
    detach, run = attach(net, FasterDiffusion(4, parallel=True)), Run()
    sample(Denoiser(net, catalog.build("processes", "flow")), (3, 1, 8, 8), catalog.build("solvers", "ddim"), 10, run=run)
    detach()
    hook.remove()
    assert rows == [3, 9, 3, 9, 3, 3], "the last span has one step left"
    facts, plain = run.record.facts["fasterdiffusion"]["cond"], walk(interval=4)[1].record.facts["fasterdiffusion"]["cond"]
    assert facts["copies"] == 3 and facts["batch_bytes"] == 3 * plain["cache_bytes"]
    answers = 3 * 3 * 64 * 4  # copies of three answers of 64 numbers
    assert plain["cache_bytes"] < facts["cache_bytes"] <= plain["cache_bytes"] + answers


def test_batches_follow_resampling_and_keep_branches_apart():
    for settings in ({"controllers": [Shuffle()]}, {"wrap": Ask()}):
        plain, _ = walk(interval=5, **settings)
        together, run = walk(interval=5, parallel=True, **settings)
        assert torch.allclose(together, plain, atol=2e-6)
    assert not torch.allclose(walk(interval=5)[0], walk(interval=5, controllers=[Shuffle()])[0], atol=1e-2)
    assert run.record.facts["fasterdiffusion"]["uncond"]["copies"] == 4


def test_answers_are_of_the_last_key_step():
    """Two walks through the same times within one run."""
    net, out = unet(), []
    for parallel in (False, True):
        detach = attach(net, FasterDiffusion(3, parallel=parallel))
        with running(Run()):
            for k in range(6):
                x = torch.full((2, 1, 8, 8), float(k // 3)) + torch.linspace(0, 1, 8)
                with calling(Clock(k % 3, steps=3, t=(t := 1 - k % 3 / 4), ids=(0, 1), times=torch.linspace(1, 0, 5))):
                    out.append(net(x, torch.full((2,), t)))
        detach()
    assert all(torch.allclose(a, b, atol=2e-6) for a, b in zip(out[:6], out[6:])) and not torch.allclose(out[1], out[4])


def test_without_a_grid_the_decoders_run_in_turn_and_other_times_are_refused():
    net, x = unet(), torch.randn(2, 1, 8, 8)
    out = []
    for parallel in (False, True):
        detach = attach(net, FasterDiffusion(3, parallel=parallel))
        with running(Run()):
            for k in range(3):
                t = torch.tensor([0.9, 0.5]) - 0.1 * k
                with calling(Clock(k, steps=3, t=t, ids=(0, 1), times=torch.linspace(1, 0, 4))):
                    out.append(net(x, t))
        detach()
    assert all(torch.equal(a, b) for a, b in zip(out[:3], out[3:])) and not torch.equal(out[1], out[2])
    detach = attach(net, FasterDiffusion(3, parallel=True))
    with running(Run()), pytest.raises(OrnsteinError, match="something else than the time"):
        for k in range(2):
            with calling(Clock(k, steps=3, t=1 - k / 3, ids=(0, 1), times=torch.linspace(1, 0, 4))):
                net(x, torch.full((2,), 1000 * (1 - k / 3)))
    detach()


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
