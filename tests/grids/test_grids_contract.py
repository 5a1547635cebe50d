"""What every file of grids/ promises: steps + 1 times from the prior to the data, falling, on every process."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.process import grid

PROCESSES = ("flow", "vp", "vp:schedule=linear", "edm")
each_grid = pytest.mark.parametrize("rule", [e.name for e in catalog.entries("grids")])


@each_grid
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 200])
def test_from_the_prior_to_the_data(rule, process, steps):
    process = catalog.build("processes", process)
    found = grid(process, steps, rule)
    assert found.shape == (steps + 1,) and found.dtype == torch.float64
    assert found[0] == process.t_max and found[-1] == 0 and (found.diff() < 0).all()


@each_grid
def test_the_same_times_again(rule):
    process = catalog.build("processes", "flow")
    assert torch.equal(grid(process, 7, rule), grid(process, 7, rule))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_shift_stays_longer_at_the_noise(process):
    process = catalog.build("processes", process)
    plain, shifted = grid(process, 20), grid(process, 20, "uniform:shift=3")
    assert (shifted[1:-1] > plain[1:-1]).all() and (shifted.diff() < 0).all()
