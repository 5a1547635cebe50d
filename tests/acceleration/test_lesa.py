"""What the contract leaves unsaid of LESA: what forecasts are exact for, experts, what is learned, and refusals."""

from __future__ import annotations

import pytest
import small
import torch
from small import TIMES, denoiser, labels
from torch import nn

from ornstein.acceleration.lesa import LESA, hats, slopes
from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import attach
from ornstein.core.sites import Seat
from ornstein.recipes.train_lesa import Recipe, _Recorder, train_lesa


class Power(nn.Module):
    seat = Seat("block", streams=("x",))

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x):
        return x**self.power


class Curve(nn.Module):
    """Fed with its own time, what leaves the last block is t^power."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Power(1), Power(power)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def forecasts(power, plugin, times):
    return small.forecasts(Curve(power), plugin, times, "blocks.1/block")


def learned(rows, interval=3, bounds=()):
    return Artefact("lesa", {"weights": torch.tensor(rows)}, {"bounds": list(bounds), "interval": interval})


def test_unlearned_it_is_the_line_through_two_features():
    out, computed = forecasts(1, LESA(3), TIMES)
    assert torch.allclose(out, TIMES, atol=1e-6) and computed == 2 + 3  # 0, 1, 4, 7, 10
    out, _ = forecasts(2, LESA(2, warmup=1), TIMES)
    assert torch.equal(out[1].double(), TIMES[0] ** 2), "of one feature there is no slope"
    twice = TIMES.repeat_interleave(2, 0)
    assert forecasts(1, LESA(2, warmup=3), twice)[0].isfinite().all()


def test_the_coefficients_of_a_parabola_make_it_exact():
    """With even times h = h_0 + r S_0 + r (r + 1) / 2 (S_0 - S_1)."""
    gain = [r * (r + 1) / 2 for r in (1 / 3, 2 / 3, 1)]
    part = LESA(3, learned([[gain, [-g for g in gain]]]), warmup=1)
    even = torch.linspace(1, 0.1, 13, dtype=torch.float64)[:, None].expand(-1, 2)
    out, computed = forecasts(2, part, even)
    assert computed == 5 and torch.allclose(out[6:], even[6:] ** 2, atol=1e-6)
    assert not torch.allclose(forecasts(2, LESA(3, warmup=1), even)[0][6:], even[6:] ** 2, atol=1e-3)


def test_each_row_has_the_expert_of_its_time():
    part = LESA(2, learned([[[0.0]], [[1.0]]], 2, [0.5]))
    out, _ = forecasts(1, part, TIMES)
    off = (out - TIMES).abs() > 1e-6
    assert not off[TIMES >= 0.5].any() and off[TIMES < 0.5].any()
    assert off.any(0).all(), "either row comes through the low times"


def test_hats_and_slopes():
    r = torch.tensor([0.0, 1 / 6, 1 / 3, 0.5, 1.0, 2.0], dtype=torch.float64)
    expected = torch.tensor([[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(hats(r, 3), expected)
    at = torch.tensor([[0.4, 0.6, 1.0]], dtype=torch.float64)
    r, mix = slopes(torch.tensor([0.3], dtype=torch.float64), at)
    assert torch.allclose(r, torch.tensor([0.5], dtype=torch.float64))
    assert torch.allclose(mix[0] @ at[0], torch.full((2,), -0.2, dtype=torch.float64))  # a line has one slope


def test_what_is_learned_is_nearer_saved_and_for_one_interval(tmp_path):
    """On trajectories of another seed: how far the squared error of the forecasts falls below Taylor's."""
    before = denoiser().backbone.state_dict()["blocks.0.mlp.0.weight"].clone()
    found = train_lesa(denoiser(), (1, 8, 8), labels, Recipe(steps=16, samples=6))
    assert torch.equal(before, denoiser().backbone.state_dict()["blocks.0.mlp.0.weight"])
    assert not any("forward" in m.__dict__ for m in denoiser().backbone.modules()), "nothing stays attached"
    path, bounds = found.save(tmp_path / "lesa.safetensors"), tuple(found.settings["bounds"])
    check = _Recorder(LESA(3, path), (3, 3, 3), bounds, closed=False)
    detach = attach(denoiser().backbone, check)
    cond = labels(torch.Generator().manual_seed(8), 4)
    sample(denoiser(), (4, 1, 8, 8), catalog.build("solvers", "ddim"), 16, cond=cond, seed=9)
    detach()
    c = LESA(3, path).weights.flatten(1)
    gain = torch.einsum("ei,eij,ej->e", c, check.square, c) - 2 * (c * check.target).sum(1)
    best = -(check.solve(1e-6).flatten(1) * check.target).sum(1)
    assert (gain < 0.8 * best).all() and (best < 0).all(), "each expert gains at least 0.8 of what it could"
    found.check(denoiser(), grid="uniform", shape=(1, 8, 8))
    with pytest.raises(OrnsteinError, match="learned for interval=3, not 4"):
        LESA(4, path)


class Parabola(Curve):
    """A backbone whose last block says t^2, whatever x is."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x, t, cond=None):
        return super().forward(t[:, None, None, None].expand_as(x).float())


def test_a_parabola_is_learned():
    known = Denoiser(Parabola(), catalog.build("processes", "flow"))
    found = train_lesa(known, (1, 2, 2), None, Recipe(steps=24, samples=2, history=3, experts=1, ridge=1e-9))
    even = torch.linspace(1, 0, 25, dtype=torch.float64)[:-1, None].expand(-1, 2)
    errors = [(forecasts(2, part, even)[0] - even**2).abs()[6:].max() for part in (LESA(3, found), LESA(3))]
    assert errors[0] < 0.2 * errors[1]


def test_refusals():
    for settings in ({"interval": 0}, {"warmup": 0}):
        with pytest.raises(OrnsteinError, match="at least 1"):
            LESA(**settings)
    with pytest.raises(OrnsteinError, match="at least 2"):
        train_lesa(denoiser(), (1, 8, 8), None, Recipe(history=1))
    with pytest.raises(OrnsteinError, match="no network"):
        train_lesa(lambda x, t: x, (1, 8, 8))
