"""The exact network against the closed form: alone, over a trajectory, with blocks left out, and under what sits inside."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import attach
from ornstein.core.sites import find_sites
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import ClosedForm, Mixture, Network

SHAPE = (1, 3, 3)
SOURCE = torch.Generator().manual_seed(3)
DATA = torch.randn(23, *SHAPE, generator=SOURCE, dtype=torch.float64)
DDIM = catalog.build("solvers", "ddim")


def ends(denoiser, part=None, steps=8, rows=6, **settings):
    detach = attach(denoiser.backbone, catalog.build("acceleration", part)) if part else (lambda: None)
    try:
        return sample(denoiser, (rows, *SHAPE), DDIM, steps, **{"dtype": torch.float64} | settings)
    finally:
        detach()


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("bandwidth", [0.0, 0.3])
def test_it_is_the_closed_form(process, bandwidth):
    mine, truth = Network(DATA, process, bandwidth, depth=4).denoiser, ClosedForm(DATA, process, bandwidth=bandwidth)
    for t in (0.0, 0.01, 0.2, 0.6, 0.95, process.t_max):
        L = process.at(t, DATA[:9])
        x = L.a * DATA[:9] + L.s * torch.randn(9, *SHAPE, generator=SOURCE, dtype=torch.float64)
        assert torch.allclose(mine(x, t).x0, truth(x, t).x0, atol=1e-10)
        half = mine(x.float(), t).x0
        assert half.dtype == torch.float32 and torch.allclose(half, truth(x.float(), t).x0, atol=1e-4)
    t = torch.linspace(0.05, 0.9, 9, dtype=torch.float64)
    x = torch.randn(9, *SHAPE, generator=SOURCE, dtype=torch.float64)
    assert torch.allclose(mine(x, t).x0, truth(x, t).x0, atol=1e-10)


def test_weights_are_those_of_the_mixture():
    weights = torch.rand(23, generator=SOURCE)
    mine = Network(DATA, Flow(), 0.4, depth=3, weights=weights).denoiser
    truth = Mixture(DATA.flatten(1), torch.tensor(0.4, dtype=torch.float64), Flow(), weights)
    x = torch.randn(5, *SHAPE, generator=SOURCE, dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        assert torch.allclose(mine(x, t).x0.flatten(1), truth(x.flatten(1), t).x0, atol=1e-10)


def test_a_whole_trajectory():
    mine, truth = Network(DATA, Flow(), 0.3).denoiser, ClosedForm(DATA, Flow(), bandwidth=0.3)
    assert torch.allclose(ends(mine), sample(truth, (6, *SHAPE), DDIM, 8, dtype=torch.float64), atol=1e-10)
    whole = Mixture(DATA.flatten(1), torch.tensor(0.3), Flow())
    noise = torch.randn(6, *SHAPE, generator=SOURCE, dtype=torch.float64)
    fine = sample(mine, noise, catalog.build("solvers", "heun"), 150)
    assert torch.allclose(fine.flatten(1), whole.exact(noise.flatten(1), steps=150), atol=2e-3)


def test_a_block_that_is_left_out_leaves_out_its_data():
    gone = torch.arange(23) % 5 == 3  # with 4 blocks and the stem: those of block 2
    part = {"name": "skip", "blocks": ((2,),) * 8}
    less = ClosedForm(DATA[~gone], Flow(), bandwidth=0.3)
    found = ends(Network(DATA, Flow(), 0.3, depth=4).denoiser, part)
    assert torch.allclose(found, sample(less, (6, *SHAPE), DDIM, 8, dtype=torch.float64), atol=1e-10)


def test_its_places():
    sites = find_sites(Network(DATA, Flow(), depth=5))
    assert [s.name for s in sites if s.grain == "block"] == [f"blocks.{k}" for k in range(5)]
    assert {(s.role, s.count) for s in sites if s.grain == "branch"} == {("attention", 5)}


@pytest.mark.parametrize("never, often", [
    ("firstblock:threshold=0", "firstblock:threshold=0.5"), ("teacache:threshold=0", "teacache:threshold=1"),
    ("broadcast:attention=1,cross_attention=1,temporal=1", "broadcast:attention=2,window=(0,1)"),
    ("stepreuse", "stepreuse:at=(1,3)"), ("spandelta:interval=1", "spandelta:interval=2"),
    ("magcache:threshold=0", "magcache:threshold=0.4"),
])  # fmt: skip
def test_caches_apply(never, often):
    denoiser = Network(DATA, Flow(), 0.3).denoiser
    plain, changed = ends(denoiser), ends(denoiser, often)
    assert torch.equal(ends(denoiser, never), plain)
    assert 1e-6 < (changed - plain).norm() / plain.norm() < 0.5
    alone = ends(denoiser, often, rows=2, ids=(4, 5))
    assert torch.allclose(alone, changed[4:], atol=1e-12)


def test_what_does_not_apply_says_so():
    denoiser = Network(DATA, Flow(), 0.3).denoiser
    for part in ("deepcache", "clear:radius=2", "dydit:width=0.5"):
        with pytest.raises(OrnsteinError):
            ends(denoiser, part)
    with pytest.raises(OrnsteinError, match="fewer blocks"):
        Network(DATA[:6], Flow(), depth=6)
    with pytest.raises(OrnsteinError, match=r"shape \(3, 3\)"):
        denoiser(torch.zeros(2, 3, 3), 0.5)
