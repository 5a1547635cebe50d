"""PFGM++: its kernel is the published one for every (N, D), and at D = inf it is EDM bit for bit."""

import math

import pytest
import torch
from scipy import stats

from ornstein.core.errors import OrnsteinError
from ornstein.evidence.processes.pfgmpp import exact
from ornstein.processes.edm import EDM
from ornstein.processes.pfgmpp import PFGMpp
from ornstein.testbeds import ClosedForm

DOUBLE = torch.float64


def noise(rows, N, seed=0):
    return torch.randn(rows, N, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize("N, D", [(1, 1.0), (2, 3.0), (64, 1.0), (64, 128.0), (64, 2048.0), (768, 128.0)])
def test_the_radius_has_the_published_law_at_the_quantile_of_the_noise(N, D):
    """R = r sqrt(B/(1-B)), B ~ Beta(N/2, D/2), r = sigma sqrt D; and the direction is the noise's own."""
    n = noise(150, N)
    tails = torch.from_numpy(stats.chi2.isf([1e-16, 1e-13], N)).sqrt()  # what float64 cannot say as a share below
    n[:2] *= (tails / n[:2].norm(dim=1))[:, None]
    x = PFGMpp(D).kernel(n)
    rest = (D / (D + x.square().sum(1))).numpy()  # 1 - B, which keeps its digits where B is nearly 1
    share, above = stats.chi2.cdf(n.square().sum(1), N), stats.chi2.sf(n.square().sum(1), N)
    assert abs(stats.beta.sf(rest, D / 2, N / 2) - share).max() < 1e-5
    assert abs(stats.beta.cdf(rest, D / 2, N / 2) / above - 1).max() < 1e-3  # far out in the tail too
    assert torch.allclose(x / x.norm(dim=1, keepdim=True), n / n.norm(dim=1, keepdim=True), atol=1e-12)


def test_infinitely_many_dimensions_are_edm():
    x0, n, t = noise(5, 12).reshape(5, 3, 2, 2), noise(5, 12, 1).reshape(5, 3, 2, 2), torch.linspace(0.1, 60, 5)
    edm = EDM()
    for D, close in ((math.inf, torch.equal), (1e12, lambda a, b: torch.allclose(a, b, rtol=1e-6, atol=1e-9))):
        p = PFGMpp(D)
        assert close(p.corrupt(x0, n, t), edm.corrupt(x0, n, t)) and close(p.prior(n), edm.prior(n))
    assert torch.equal(PFGMpp(8.0).prior(n), 80 * PFGMpp(8.0).kernel(n))
    assert torch.equal(PFGMpp(8.0).corrupt(x0, n, 3.0), x0 + 3 * PFGMpp(8.0).kernel(n))
    assert torch.equal(p.time(p.at(t, t).logsnr), edm.time(edm.at(t, t).logsnr)) and (p.t_min, p.t_max) == (0.002, 80.0)


def test_fewer_dimensions_have_heavier_tails_and_shapes_are_kept():
    n = noise(4000, 16).reshape(4000, 1, 4, 4)
    far = [PFGMpp(D).kernel(n).flatten(1).norm(dim=1).quantile(0.99).item() for D in (4.0, 32.0, 1e4, math.inf)]
    assert far == sorted(far, reverse=True) and far[0] > 2 * far[-1]
    single = PFGMpp(8.0).kernel(n.float())
    assert single.dtype == torch.float32 and single.shape == n.shape
    assert torch.allclose(single.double(), PFGMpp(8.0).kernel(n), rtol=1e-5, atol=1e-6)
    assert torch.equal(PFGMpp(8.0).kernel(n)[7:9], PFGMpp(8.0).kernel(n[7:9]))  # row by row
    assert torch.equal(PFGMpp(8.0).kernel(n[:1] * 0), n[:1] * 0)


def test_the_posterior_mean_is_that_of_the_kernel():
    """Against the average of draws of (x0, x) that fall near a point; and against the closed form of EDM."""
    data, p = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=DOUBLE), PFGMpp(2.0)
    i = torch.arange(400000) % 2
    x = p.corrupt(data[i], noise(len(i), 2, 3), 0.8)
    point = torch.tensor([[0.6, 0.4]], dtype=DOUBLE)
    near = (x - point).norm(dim=1) < 0.08
    assert near.sum() > 500
    assert torch.allclose(data[i][near].mean(0), exact(data, p, point, 0.8).x0[0], atol=0.06)
    said = [f(point, 0.8).x0 for f in (lambda *a: exact(data, PFGMpp(), *a), ClosedForm(data, EDM()))]
    assert torch.allclose(*said, atol=1e-9)


def test_refusals():
    with pytest.raises(OrnsteinError, match="1 or more"):
        PFGMpp(0.5)
    with pytest.raises(OrnsteinError, match="no end point"):
        PFGMpp().corrupt(*noise(3, 2)[:2], 1.0, torch.zeros(2))
