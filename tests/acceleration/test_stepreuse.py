"""What the contract leaves unsaid of feature inheritance: grains, calibration, what is stored, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.acceleration.deepcache import DeepCache
from ornstein.acceleration.stepreuse import StepReuse, calibrate, steps_between, with_share
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach

SPECS = {"dit": "dit:channels=1,patch=2,width=16,depth=3,heads=2,classes=10",
         "unet": "unet:channels=1,width=16,multipliers=(1,2,2),attention_levels=(1,)"}  # fmt: skip


COND = {"label": torch.tensor([3, 4])}


def denoiser(backbone):
    torch.manual_seed(1)
    net = catalog.build("backbones", SPECS[backbone])
    for key, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.03 if key.startswith("time") else 0.15)
    return Denoiser(net.requires_grad_(False), catalog.build("processes", "flow"), null=net.null_condition)


def draw(d, plugin=None, steps=6, solver="ddim"):
    run, detach = Run(), attach(d.backbone, plugin) if plugin else (lambda: None)
    try:
        return sample(d, (2, 1, 8, 8), catalog.build("solvers", solver), steps, run=run, cond=COND), run.record
    finally:
        detach()


@pytest.mark.parametrize("level", [1, 2])
def test_inherited_stages_are_deepcache(level):
    """Nothing inside of an inherited stage is computed or matters."""
    d = denoiser("unet")
    one, record = draw(d, StepReuse("stage", steps_between(0, 6, 2), level))
    other, its = draw(d, DeepCache(2, level))
    assert torch.equal(one, other)
    assert record.computed_at["mid/stage"] == its.computed_at["mid/stage"] == 3


def test_an_inherited_block_adds_what_it_added_before():
    d, seen = denoiser("dit"), {}
    hook = d.backbone.blocks[0].register_forward_hook(lambda m, i, o: seen.setdefault("pairs", []).append((i[0], o)))
    draw(d, StepReuse("block", (1,)), steps=2)
    hook.remove()
    (x, out), (y, now) = seen["pairs"]
    assert torch.equal(now, y + (out - x))


def test_a_value_is_stored_only_while_the_next_step_needs_it():
    d = denoiser("dit")
    _, record = draw(d, StepReuse(at=(5,)))
    once = record.facts["stepreuse"]["cond"]["cache_bytes"]
    assert once == 6 * 2 * 16 * 16 * 4  # six branches, two samples of 16 tokens, width 16
    _, record = draw(d, StepReuse(at=()))
    assert record.facts["stepreuse"]["cond"]["cache_bytes"] == 0 and record.skipped() == 0


def test_every_evaluation_of_a_step_inherits():
    _, record = draw(denoiser("dit"), StepReuse("block", (1, 2)), solver="heun")
    assert record.computed_at["blocks.0/block"] == record.calls["evaluations"] - 4


def test_steps_between():
    assert steps_between(0, 6, 2) == (1, 3, 5) and steps_between(2, 8, 3) == (3, 4, 6, 7) and steps_between(0, 9, 1) == ()


def made(backbone, grain, threshold=0.1, **settings):
    d = denoiser(backbone)
    part = StepReuse(grain, **settings)
    return d, calibrate(d, (2, 1, 8, 8), catalog.build("solvers", "ddim"), 6, threshold, part, COND)


@pytest.mark.parametrize("backbone, grain, units", [("dit", "branch", 6), ("dit", "block", 3), ("unet", "stage", 1)])
def test_a_calibrated_schedule(backbone, grain, units, tmp_path):
    d, found = made(backbone, grain, 0.0)
    change = found.arrays["change"]
    assert change.shape == (6, units) and change[0].isinf().all() and change[1:].isfinite().all()
    assert not found.arrays["inherits"].any() and not any("forward" in m.__dict__ for m in d.backbone.modules())
    every = with_share(found, 1.0).arrays["inherits"]
    assert every[1:].all() and not every[0].any()
    half = with_share(found, 0.5)
    assert 0.3 < half.arrays["inherits"].double().mean() <= 0.5
    out, record = draw(d, StepReuse(schedule=half))
    computed = sum(record.computed_at.values()) / sum(record.asked_at.values())
    assert 1 - computed == pytest.approx(float(half.arrays["inherits"].double().mean()), abs=1e-6)
    again = StepReuse(schedule=half.save(tmp_path / "found.safetensors"))
    assert again.grain == grain and torch.equal(draw(d, again)[0], out)


def test_the_measured_change_and_the_rule():
    """Against the definition: the mlp of the first block at steps 0 and 1, and sums that stay below the threshold."""
    d, seen = denoiser("dit"), []
    hook = d.backbone.blocks[0].mlp.register_forward_hook(lambda m, i, o: seen.append(o))
    found = calibrate(d, (2, 1, 8, 8), catalog.build("solvers", "ddim"), 6, 0.1, cond=COND)
    hook.remove()
    column = found.settings["units"].index("blocks.0.mlp")
    expected = (seen[1] - seen[0]).norm() / seen[0].norm()
    assert float(found.arrays["change"][1, column]) == pytest.approx(float(expected), rel=1e-5)
    change = torch.tensor([[torch.inf], [0.3], [0.3], [0.3], [0.3], [0.3]], dtype=torch.float64)
    even = Artefact("stepreuse", {"inherits": change > 9, "change": change}, dict(found.settings))
    assert with_share(even, 0.5).arrays["inherits"][:, 0].tolist() == [False, True, False, True, False, True]
    assert with_share(even, 0.4).arrays["inherits"].sum() == 0  # 0.5 is too many, and between there is nothing


def test_guided_calibration_takes_the_larger_change_of_the_branches():
    d = denoiser("dit")
    alone = calibrate(d, (2, 1, 8, 8), catalog.build("solvers", "ddim"), 4, 0.1, cond=COND)
    guided = guide(d, catalog.build("guidance", "cfg:scale=1"))
    both = calibrate(guided, (2, 1, 8, 8), catalog.build("solvers", "ddim"), 4, 0.1, cond=COND)
    assert both.made_for["guidance"] and (both.arrays["change"][1:] >= alone.arrays["change"][1:] - 1e-6).all()


def test_refusals():
    d, found = made("dit", "block")
    with pytest.raises(OrnsteinError, match="is for 6 steps, and this run has 5"):
        draw(d, StepReuse(schedule=found), steps=5)
    deep = StepReuse(schedule=with_share(found, 1.0))
    small = catalog.build("backbones", "dit:channels=1,patch=2,width=16,depth=2,heads=2")
    with pytest.raises(OrnsteinError, match="names 'blocks.2'.*Calibrate it on this network"):
        attach(small, deep)
    with pytest.raises(OrnsteinError, match="does not fit.*grain=block"):
        attach(small, StepReuse("stage"))
    with pytest.raises(OrnsteinError, match="does not fit.*grain=stage"):
        attach(denoiser("unet").backbone, StepReuse("block"))
    with pytest.raises(OrnsteinError, match="of 3 levels.*1 to 2"):
        attach(denoiser("unet").backbone, StepReuse("stage", level=3))
    with pytest.raises(OrnsteinError, match="branch"):
        StepReuse("brench")


def test_calibration_compares_the_first_evaluations_of_steps():
    d, seen = denoiser("dit"), []
    hook = d.backbone.blocks[0].mlp.register_forward_hook(lambda m, i, o: seen.append(o))
    found = calibrate(d, (2, 1, 8, 8), catalog.build("solvers", "heun"), 3, 0.1, cond=COND)
    hook.remove()
    column = found.settings["units"].index("blocks.0.mlp")
    expected = [float((seen[2 * k] - seen[2 * k - 2]).norm() / seen[2 * k - 2].norm()) for k in (1, 2)]
    assert found.arrays["change"][1:, column].tolist() == pytest.approx(expected, rel=1e-5)
