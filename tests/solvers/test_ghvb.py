"""GHVB: beta = 1 is PLMS, the published recurrence and its coefficients, and the region of stability."""

import numpy as np
import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.evidence.solvers.ghvb import picture, radius, reach
from ornstein.solvers.layers.adams import constant
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def ends(spec: str, process: str = "vp", steps: int = 12, **settings) -> torch.Tensor:
    mixture = Mixture.random(catalog.build("processes", process))
    return sample(mixture, (4, 16), catalog.build("solvers", spec), steps, dtype=DOUBLE, **settings)


@pytest.mark.parametrize("momentum", ["ghvb", "hb", "nesterov"])
@pytest.mark.parametrize("terms", [1, 2, 3, 4])
@pytest.mark.parametrize("faithful", [True, False])
def test_no_damping_is_plms(terms, momentum, faithful):
    for process in ("flow", "vp", "edm"):
        one = ends(f"ghvb:terms={terms},beta=1.0,momentum={momentum},faithful={faithful}", process)
        assert (one - ends(f"pndm:terms={terms},faithful={faithful}", process)).abs().max() < 1e-10


def combination(count: int, b: float, v: list) -> torch.Tensor:
    """The publication's table 1, v newest first."""
    c = {1: [b], 2: [(2 + b) / 2, -(2 - b) / 2], 3: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
         4: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
         5: [(1650 + 251 * b) / 720, -(3420 - 646 * b) / 720, (2880 - 264 * b) / 720, -(1380 - 106 * b) / 720,
             (270 - 19 * b) / 720]}[count]  # fmt: skip
    return sum(w / b * e for w, e in zip(c, v))


@pytest.mark.parametrize("beta", [0.2, 0.7])
@pytest.mark.parametrize("momentum, terms", [("ghvb", k) for k in range(1, 6)] + [("hb", 4), ("nesterov", 2)])
def test_published_form(terms, beta, momentum):
    """A loop in xbar and sigma, as the publication writes it."""
    mixture = Mixture.random(catalog.build("processes", "edm"))
    times = [80.0, 60, 44, 30, 18, 9, 3, 0.5, 0.0]
    x = 80 * torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    y, v, past = x.clone(), None, []
    for t, s in zip(times[:-1], times[1:]):
        e = mixture(y, t).noise
        v = e if v is None else v
        if momentum == "ghvb":
            v = (1 - beta) * v + beta * e
            past = [v, *past][:terms]
            u = combination(len(past), beta, past)
        else:
            past = [e, *past][:terms]
            p = combination(len(past), 1.0, past)
            v = (1 - beta) * v + beta * p
            u = v if momentum == "hb" else (1 - beta) * v + beta * p
        y = y + (s - t) * u
    spec = f"ghvb:terms={terms},beta={beta},momentum={momentum},faithful=True"
    assert (sample(mixture, x, catalog.build("solvers", spec), rule=times) - y).abs().max() < 1e-10 * (1 + y.abs().max())


def test_two_terms_on_equal_steps_are_the_published_ones():
    """The form for uneven steps, where they are equal in tau and sigma is nearly straight in it."""
    times = torch.linspace(0.02, 0.01, 9).tolist()
    one, other = (ends(f"ghvb:terms=2,beta=0.5,faithful={f}", "flow", rule=times) for f in (True, False))
    assert (one - other).abs().max() < 1e-3 * (one - ends("ddim", "flow", rule=times)).abs().max()


@pytest.mark.parametrize("spec", ["pndm", "ghvb", "ghvb:faithful=True"])
def test_a_row_that_is_done_stays(spec):
    """Two of its times are then one: no division by their difference."""
    mixture = Mixture.random(catalog.build("processes", "vp"), dims=4)
    solver, x = catalog.build("solvers", spec), torch.randn(2, 4, dtype=DOUBLE)
    memory, seen = solver.start(x, None), []
    times = torch.tensor([[0.5, 0.2, 0.0, 0.0, 0.0, 0.0], [0.9, 0.8, 0.6, 0.5, 0.3, 0.1]], dtype=DOUBLE)
    for t, s in zip(times.T[:-1], times.T[1:]):
        x, memory = solver.step(mixture, mixture.process, x, t, s, memory)
        seen.append(x[0])
    assert torch.isfinite(x).all() and all((v - seen[1]).abs().max() < 1e-9 for v in seen[2:])


def test_regions():
    """PLMS4 is stable to 0.3 and Euler to 2, momentum adds to it, and GHVB keeps the imaginary axis nearly in."""
    assert abs(reach(4, 1.0) - 0.3) < 0.011 and abs(reach(1, 1.0) - 2) < 0.011
    assert reach(4, 1.0) < reach(4, 0.8) < reach(4, 0.5) < reach(4, 0.2)
    assert np.allclose(radius(np.array([0.0]), 3, 0.4), 1)
    assert abs(sum(constant(5)) - 1) < 1e-12 and abs(sum(constant(5, ago=1)) - 1) < 1e-12


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert picture(tmp_path / "regions.png", fineness=9).stat().st_size > 5000


@pytest.mark.parametrize("spec", ["ghvb:terms=6", "ghvb:beta=0", "ghvb:beta=1.5", "ghvb:momentum=adam"])
def test_settings(spec):
    with pytest.raises(OrnsteinError):
        catalog.build("solvers", spec)
