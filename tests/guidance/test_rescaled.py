"""Rescaled guidance: the deviation of each sample, and the library that it is compared with."""

import pytest
import torch

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser, guide
from ornstein.core.errors import OrnsteinError
from ornstein.guidance.cfg import CFG
from ornstein.guidance.rescaled import Rescaled
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.testbeds import Mixture

LABELS = {"label": torch.tensor([0, 3, 1, 2])}
CLOCK = Clock(ids=(0, 1, 2, 3))


def bed(process=None):
    return Mixture.random(process or Flow(), dims=6, components=4, std=0.4)


def points():
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", ["x0", "noise", "velocity"])
def test_the_deviation_of_each_sample(process, kind):
    x, t = points(), float(process.time(torch.tensor(0.3, dtype=torch.float64)))
    good = bed(process)(x, t, LABELS).get(kind)
    plain = guide(bed(process), CFG(5.0))(x, t, LABELS, CLOCK).get(kind)
    none, half, all_ = (guide(bed(process), Rescaled(5.0, phi, kind))(x, t, LABELS, CLOCK) for phi in (0.0, 0.5, 1.0))
    assert all_.kind == kind and torch.allclose(none.get(kind), plain, atol=1e-10)
    assert torch.allclose(all_.value.std(1), good.std(1), atol=1e-10)
    assert torch.allclose(half.value, (plain + all_.value) / 2, atol=1e-10)


def test_the_networks_own_quantity_unless_told():
    net = Denoiser(lambda x, t, c: x * c["label"][:, None, None, None] + t[:, None, None, None], Flow(),
                   null=lambda cond, n: {"label": torch.full((n,), 2)})  # fmt: skip
    x = torch.randn(4, 2, 5, 5)
    said = guide(net, Rescaled(3.0, 1.0))(x, 0.4, LABELS, CLOCK)
    good = net(x, 0.4, LABELS).velocity
    assert said.kind == "velocity" and torch.allclose(said.value.std((1, 2, 3)), good.std((1, 2, 3)), atol=1e-5)


def test_it_is_the_rescaling_of_diffusers():
    theirs = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    x = points()
    plain = guide(bed(), CFG(5.0))(x, 0.5, LABELS, CLOCK).x0
    other = theirs(plain, bed()(x, 0.5, LABELS).x0, 0.7)
    assert torch.allclose(guide(bed(), Rescaled(5.0))(x, 0.5, LABELS, CLOCK).x0, other, atol=1e-12)


def test_a_flat_answer_stays_finite():
    net = Denoiser(lambda x, t, c: torch.zeros_like(x), Flow(), null=lambda cond, n: cond)
    assert guide(net, Rescaled(3.0))(torch.randn(2, 3), 0.5, {"label": torch.zeros(2)}, Clock()).value.abs().max() == 0


@pytest.mark.parametrize("act, words", [
    (lambda: Rescaled(2.0, 1.5), "from 0 to 1"),
    (lambda: Rescaled(2.0, kind="nois"), "Did you mean 'noise'"),
    (lambda: guide(bed(), Rescaled(2.0))(torch.randn(2, 6), 0.5, None, Clock()), "no condition"),
])  # fmt: skip
def test_errors_name_the_remedy(act, words):
    with pytest.raises(OrnsteinError, match=words):
        act()
