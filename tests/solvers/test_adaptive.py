"""Adaptive steps: the tolerance rules the error, every row has steps of its own, and an impossible wish is refused."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Run
from ornstein.testbeds import Mixture

DOUBLE = torch.float64
PROCESSES = ("flow", "vp", "vp:schedule=linear", "edm")


def solver_of(tolerance: float, **settings):
    return catalog.build("solvers", {"name": "adaptive", "rtol": tolerance, "atol": tolerance, **settings})


def start(process: str) -> tuple[Mixture, torch.Tensor]:
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=0.5)
    noise = torch.randn(6, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    return mixture, mixture.process.prior(noise)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_tolerance_rules_the_error_and_the_grid_does_not(process):
    mixture, x = start(process)
    exact = mixture.exact(x, s=0.0)
    error = {}
    for tolerance in (1e-3, 1e-5):
        for steps in (1, 6):
            end = sample(mixture, x, solver_of(tolerance), steps, dtype=DOUBLE)
            error[tolerance, steps] = (end - exact).abs().max().item()
        assert max(error[tolerance, k] for k in (1, 6)) < 30 * tolerance + 5e-3 * (process == "edm")
    assert error[1e-5, 1] < error[1e-3, 1]


def test_a_row_does_not_depend_on_its_neighbours():
    """A hard neighbour makes the batch take more steps, which the easy row does not see."""
    mixture, x = start("flow")
    hard = torch.cat([x[:1], 30 * x[1:]])
    calls, ends = [], []
    for batch in (x[:1], hard):
        run = Run()
        ends.append(sample(mixture, batch, solver_of(1e-4), 1, dtype=DOUBLE, run=run)[0])
        calls.append(run.record.calls["evaluations"])
    assert calls[1] > calls[0] and torch.allclose(ends[0], ends[1], atol=1e-12)


def test_calls_are_one_and_three_per_try():
    mixture, x = start("vp")
    run = Run()
    sample(mixture, x, solver_of(1e-3), 1, dtype=DOUBLE, run=run)
    assert run.record.calls["evaluations"] % 3 == 1 and run.record.calls["evaluations"] > 4
    run = Run()
    sample(mixture, x, solver_of(1e6), 1, dtype=DOUBLE, run=run)  # content with one step
    assert run.record.calls["evaluations"] == 4


def test_what_cannot_be_met_is_refused():
    mixture, x = start("flow")
    with pytest.raises(OrnsteinError, match=r"6 of 6 rows.*20 calls do not suffice.*Loosen"):
        sample(mixture, x, solver_of(1e-8, calls=20), 1, dtype=DOUBLE)
    with pytest.raises(OrnsteinError, match="shrunk to nothing"):
        sample(mixture, x * torch.nan, solver_of(1e-3), 1, dtype=DOUBLE)
    with pytest.raises(OrnsteinError, match="one time per sample"):
        t = torch.ones(6, 4, dtype=DOUBLE)
        solver_of(1e-3).step(mixture, mixture.process, x, t, t / 2, None)


def test_pictures_in_single_precision():
    mixture, x = start("vp")
    flat = sample(mixture, x.float(), solver_of(1e-3), 1)
    square = sample(mixture, x.float().reshape(6, 1, 2, 2), solver_of(1e-3), 1)
    assert square.dtype == torch.float32 and torch.allclose(square.reshape(6, 4), flat, atol=1e-5)
    assert torch.allclose(flat.double(), sample(mixture, x, solver_of(1e-3), 1, dtype=DOUBLE), atol=1e-2)
