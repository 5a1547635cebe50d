"""What the contract leaves unsaid of Inner Loop Feedback: what is passed by, what moves features on, learning, refusals."""

from __future__ import annotations

import pytest
import torch
from small import TIMES, denoiser, forecasts, labels
from torch import nn

from ornstein.acceleration.ilf import ILF, feedback, fresh
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.core.sites import Seat
from ornstein.evidence.acceleration.ilf import SHIPPED
from ornstein.recipes.train_ilf import Recipe, train_ilf


class Block(nn.Module):
    seat = Seat("block", streams=("x",))

    def forward(self, x):
        return 2 * x


class Twice(nn.Module):
    """Two blocks; what leaves the first is twice the time, as two tokens of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, t):
        x = t[:, None, None].expand(-1, 2, 4).float()
        for block in self.blocks:
            x = block(x)
        return x[:, 0, 0]


def known(bias, unit=0.5, interval=2, passed=0):
    """A feedback that always says `bias`."""
    weights = fresh(4, 4, torch.Generator().manual_seed(0)) | {"up_bias": torch.full((4,), bias)}
    return Artefact("ilf", weights, {"unit": unit, "interval": interval, "passed": passed})


def test_features_move_by_the_gap_times_the_feedback():
    """h = 4 t falls by 4 per unit of time: u = -2 in units of one half is exact, in either row."""
    out, computed = forecasts(Twice(), ILF(2, 0, known(-2.0)), TIMES, "blocks.0/block")
    assert torch.allclose(out.double(), 4 * TIMES, atol=1e-6) and computed == 6
    kept, _ = forecasts(Twice(), ILF(2), TIMES, "blocks.0/block")
    assert torch.equal(kept[1::2], kept[0:-1:2]) and not torch.equal(kept, out)
    off, _ = forecasts(Twice(), ILF(2, 0, known(-2.0, unit=0.25)), TIMES, "blocks.0/block")
    assert not torch.allclose(off, out)


def test_blocks_after_those_passed_by_are_computed():
    plugin = ILF(2, 1, known(-1.0, passed=1))  # h_a = 2 t
    out, first = forecasts(Twice(), plugin, TIMES, "blocks.0/block")
    _, second = forecasts(Twice(), plugin, TIMES, "blocks.1/block")
    assert torch.allclose(out.double(), 4 * TIMES, atol=1e-6) and (first, second) == (6, 11)
    assert forecasts(Twice(), ILF(3, warmup=4), TIMES, "blocks.0/block")[1] == 4 + 2  # and 6, 9


def test_the_feedback_sees_both_times_and_all_tokens():
    source = torch.Generator().manual_seed(0)
    w = fresh(4, 8, source) | {"up": torch.randn(4, 8, generator=source)}
    h, t, at = torch.randn(2, 3, 4), torch.tensor([0.2, 0.7]), torch.tensor([0.4, 0.9])
    said = feedback(w, h, t, at)
    assert said.shape == h.shape
    for other in (feedback(w, h, at, at), feedback(w, h, t, t)):
        assert not torch.allclose(said, other, atol=1e-3)
    changed = feedback(w, h.index_fill(1, torch.tensor([2]), 0.0), t, at)
    assert not torch.allclose(changed[:, 0], said[:, 0], atol=1e-4), "tokens look at each other"
    assert torch.allclose(feedback(w, h[1:], t[1:], at[1:])[0], said[1], atol=1e-6)
    assert torch.allclose(feedback(w | {"scale": 2 * w["scale"]}, h, t, at), 2 * said)


def test_learning_lowers_the_error_and_the_network_stays(tmp_path):
    given, before = denoiser(), denoiser().backbone.state_dict()["blocks.0.mlp.0.weight"].clone()

    def gap(predictor):
        run, drawn = Run(), []
        for plugin in (None, ILF(2, predictor=predictor)):
            detach = attach(given.backbone, plugin) if plugin else (lambda: None)
            drawn.append(sample(given, (3, 1, 8, 8), catalog.build("solvers", "ddim"), 10, cond={"label": torch.arange(3)},
                                seed=8, run=run))  # fmt: skip
            detach()
        return float((drawn[1] - drawn[0]).norm())

    recipe = Recipe(2, steps=10, samples=12, rank=8, updates=50, batch=8, lr=1e-2)
    found = train_ilf(given, (1, 8, 8), labels, recipe)
    assert gap(found.save(tmp_path / "ilf.safetensors")) < 0.85 * gap("")
    assert torch.equal(before, given.backbone.state_dict()["blocks.0.mlp.0.weight"])
    assert not any("forward" in m.__dict__ for m in given.backbone.modules())
    found.check(given, grid="uniform", shape=(1, 8, 8))


def test_refusals():
    for settings in ({"interval": 0}, {"warmup": 0}, {"passed": -1}):
        with pytest.raises(OrnsteinError, match="at least"):
            ILF(**settings)
    for settings in ({"interval": 3}, {"passed": 1}):
        with pytest.raises(OrnsteinError, match="learned for passed=0, interval=2"):
            ILF(predictor=known(0.0), **settings)
    net = denoiser().backbone
    with pytest.raises(OrnsteinError, match="at most 4"):
        attach(net, ILF(passed=5))
    with pytest.raises(OrnsteinError, match="of width 96, and the features of 32"):
        detach = attach(net, ILF(predictor=SHIPPED))
        try:
            sample(denoiser(), (2, 1, 8, 8), catalog.build("solvers", "ddim"), 3, cond={"label": torch.arange(2)})
        finally:
            detach()
    with pytest.raises(OrnsteinError, match="no network"):
        train_ilf(lambda x, t: x, (1, 8, 8))
    with pytest.raises(OrnsteinError, match="multiple of 4"):
        train_ilf(denoiser(), (1, 8, 8), recipe=Recipe(rank=5))
