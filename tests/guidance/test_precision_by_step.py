"""Precision by step: which steps the copy takes, and that the network stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.processes.flow import Flow
from ornstein.recipes.precision_by_step import precision_by_step


def bed():
    torch.manual_seed(0)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=2,heads=4,classes=10")
    for p in net.parameters():
        nn.init.normal_(p, std=0.15)
    return Denoiser(net.requires_grad_(False), Flow())


LOW = catalog.build("compression", "int8", min_size=1, mode="dynamic")


def draw(denoiser, steps=6):
    return sample(denoiser, (3, 1, 8, 8), catalog.build("solvers", "dpmpp2m"), steps, cond={"label": torch.arange(3)})


def test_none_and_all():
    full = bed()
    want, copy = draw(full), replace(full, backbone=LOW(full.backbone))
    assert torch.equal(draw(precision_by_step(full, 0.0, LOW)), want)
    assert torch.equal(draw(precision_by_step(full, 1.0, LOW)), draw(copy)) and not torch.equal(draw(copy), want)
    assert torch.equal(draw(precision_by_step(full, 0.0, LOW, late=True)), want)
    assert torch.equal(draw(full), want), "the network given is left as it is"


@pytest.mark.parametrize("late, took", [(False, [0, 1]), (True, [4, 5])])
def test_which_steps_the_copy_takes(late, took):
    """The network itself is asked at the others."""
    full, asked = bed(), []

    denoiser = precision_by_step(full, 1 / 3, "int8:min_size=1", late)
    for d, name in ((denoiser.denoiser, "second"), (denoiser.rule.others[0], "first")):
        d.backbone.register_forward_pre_hook(lambda *_, name=name: asked.append(name))
    draw(denoiser)
    copy = "second" if late else "first"
    assert [k for k, who in enumerate(asked) if who == copy] == took and len(asked) == 6
    low = denoiser.denoiser if late else denoiser.rule.others[0]
    assert any(type(m).__name__ == "Int8Linear" for m in low.backbone.modules())


def test_a_share_beyond_all_is_refused():
    with pytest.raises(OrnsteinError, match="share=1.5 of the steps"):
        precision_by_step(bed(), 1.5)
