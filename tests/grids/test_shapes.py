"""Where each grid puts its times."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.process import grid

FLOW = catalog.build("processes", "flow")
EDM = catalog.build("processes", "edm")


def flow_times(process, steps: int, rule: str) -> torch.Tensor:
    a, s, *_ = process.coefficients(grid(process, steps, rule))
    return s / (a + s)


def test_sway_by_hand():
    """f = u + s (cos(pi u/2) - 1 + u); s = -1 leaves t = cos(pi u/2)."""
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(grid(FLOW, 8, "sway"), (u * torch.pi / 2).cos(), atol=1e-12)
    assert torch.allclose(grid(FLOW, 8, "sway:s=0"), 1 - u, atol=1e-12)
    assert grid(FLOW, 8, "sway:s=0.5")[4] == pytest.approx(0.5 - 0.5 * (2**-0.5 - 0.5))


@pytest.mark.parametrize("rule", ["sway:s=0", "sway", "beta"])
def test_flow_time_is_the_same_on_every_process(rule):
    found = flow_times(EDM, 10, rule)
    assert torch.allclose(found / found[0], flow_times(FLOW, 10, rule), atol=1e-12)


@pytest.mark.parametrize("alpha, beta", [(0.6, 0.6), (0.3, 2.0), (1.0, 1.0), (2.0, 0.5), (4.0, 3.0)])
def test_beta_quantiles(alpha, beta):
    stats = pytest.importorskip("scipy.stats")
    found = grid(FLOW, 40, f"beta:alpha={alpha},beta={beta}").numpy()
    assert abs(found - stats.beta.ppf(torch.linspace(1, 0, 41).double().numpy(), alpha, beta)).max() < 1e-4


def test_polyexponential_of_one_is_even_log_snr():
    assert torch.allclose(grid(EDM, 12, "polyexponential"), grid(EDM, 12, "logsnr"), rtol=1e-12)
    low, high = (grid(EDM, 12, f"polyexponential:rho={r}")[1:-2] for r in (0.7, 1.5))
    assert (low > high).all()  # above 1 the levels fall sooner


def test_quadratic_and_karras_by_hand():
    assert grid(FLOW, 4, "quadratic").tolist() == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16, 0])
    root = [80 ** (1 / 7), 0.002 ** (1 / 7)]
    assert grid(EDM, 3, "karras").tolist() == pytest.approx([80, (sum(root) / 2) ** 7, 0.002, 0])


@pytest.mark.parametrize("rule", ["sway:s=2", "sway:s=-1.1", "beta:alpha=0", "beta:beta=-1", "polyexponential:rho=0"])
def test_settings_that_would_not_fall(rule):
    with pytest.raises(OrnsteinError):
        grid(FLOW, 4, rule)


def test_the_ends_of_the_sway_still_fall():
    for s in (-1, 1.75):
        assert (grid(FLOW, 300, f"sway:s={s}").diff() < 0).all()
