"""Thresholding: the range, each sample by itself, and the library that it is compared with."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.guidance.cfg import CFG
from ornstein.guidance.thresholding import Thresholding, _quantile
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
CLOCK = Clock(ids=(0, 1, 2, 3))
RULES = [Thresholding(0.8), Thresholding(0.8, None), Thresholding(0.8, 0.6)]


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.4)


def points():
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_samples_are_within_the_range_on_every_process(process, rule):
    model = guide(bed(process), CFG(4.0))
    x = sample(model, (4, 6), DPMpp2M(), 8, cond=LABELS, rule="karras")
    kept = sample(guide(model, rule), (4, 6), DPMpp2M(), 8, cond=LABELS, rule="karras")
    assert x.abs().max() > 0.9 and bool(kept.isfinite().all()) and kept.abs().max() <= 0.8 + 1e-4


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_each_sample_by_itself_at_its_own_time(rule):
    x, t = 2 * points(), torch.tensor([0.9, 0.5, 0.7, 0.2], dtype=torch.float64)
    both = guide(bed(), rule)(x, t, LABELS, CLOCK)
    for i in range(4):
        one = guide(bed(), rule)(x[i : i + 1], t[i], {"label": LABELS["label"][i : i + 1]}, Clock(ids=(i,)))
        assert torch.allclose(both.x0[i : i + 1], one.x0, atol=1e-12)
        assert torch.allclose(both.noise[i : i + 1], one.noise, atol=1e-12)


@pytest.mark.parametrize("percentile", [0.6, 0.995, 1.0])
def test_it_is_the_dynamic_thresholding_of_diffusers(percentile):
    diffusers = pytest.importorskip("diffusers")
    x = 3 * points()
    scheduler = diffusers.DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=99)
    mine = guide(bed(), Thresholding(1.0, percentile))(x, 0.3, LABELS, CLOCK).x0
    other = scheduler._threshold_sample(bed()(x, 0.3, LABELS).x0[..., None])[..., 0]
    assert torch.allclose(mine, other, atol=1e-10)


def test_within_the_range_nothing_changes():
    x, plain = points(), bed()(points(), 0.5, LABELS).x0
    for percentile in (None, 0.9):
        assert torch.equal(guide(bed(), Thresholding(50.0, percentile))(x, 0.5, LABELS, CLOCK).x0, plain)


def test_the_percentile():
    x = torch.rand(3, 2, 7, 5)
    for share in (0.01, 0.5, 0.995, 1.0):
        assert torch.allclose(_quantile(x, share).flatten(), x.flatten(1).quantile(share, 1), atol=1e-6)
    assert _quantile(x, 0.5).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("act, words", [
    (lambda: Thresholding(0.0), "above 0"),
    (lambda: Thresholding(1.0, 99.5), "share up to 1"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
