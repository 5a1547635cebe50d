"""The optimal grid: the Gaussian optimum is one, the shortest path is the shortest, the file is refused elsewhere."""

from itertools import combinations

import pytest
import torch

from ornstein.core.artefact import Artefact
from ornstein.core.catalog import build
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.grids.optimal import KIND, Optimal, calibrate
from ornstein.processes.edm import EDM
from ornstein.processes.flow import Flow
from ornstein.solvers.ddim import DDIM
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def test_the_default_is_the_best_for_a_gaussian():
    """Of ladders even in arctan(sigma/d'), that of the data's own d ends nearest; and it beats the other rules."""
    gaussian = Mixture(torch.zeros(1, 1), torch.tensor(0.5), EDM())
    x = gaussian.process.prior(torch.ones(1, 1, dtype=DOUBLE))
    exact = gaussian.exact(x)

    def error(rule) -> float:
        return (sample(gaussian, x, DDIM(), 12, rule=rule) - exact).abs().item()

    best = error("optimal:sigma_data=0.5")
    assert all(best < error(r) for r in (Optimal(sigma_data=0.4), Optimal(sigma_data=0.6), "karras", "logsnr", "uniform"))


@pytest.mark.parametrize("seed", range(6))
def test_the_shortest_path_is_the_shortest(seed):
    cost = torch.rand(8, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(1, 0, 8, dtype=DOUBLE)
    made = Artefact(KIND, {"times": times, "cost": cost}, {}, {"process": repr(Flow())})
    for gamma in (1.0, 1.15, 2.0):
        for steps in (1, 2, 4, 7):
            paths = [(0, *middle, 7) for middle in combinations(range(1, 7), steps - 1)]
            total = [sum(gamma**k * cost[i, j] for k, (i, j) in enumerate(zip(p, p[1:]))) for p in paths]
            best = paths[int(torch.stack(total).argmin())]
            assert torch.equal(Optimal(made, gamma=gamma)(Flow(), steps), times[list(best)])


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_calibrated(tmp_path, solver):
    mix = Mixture.random(Flow(), dims=4, components=3, std=0.3)
    made = calibrate(mix, (32, 4), build("solvers", solver), 24, seed=1)
    cost = made.arrays["cost"]
    assert (cost.triu(1)[:, 1:].isfinite()).all() and (cost[0, 2:] > cost[0, 1:-1]).all()
    if solver == "ddim":  # the fine trajectory's own steps cost nothing
        assert cost.diagonal(1).abs().max() < 1e-3 * cost[0, -1]
    file = made.save(tmp_path / "grid.safetensors")
    rule = f"optimal:path='{file}'"
    for steps in (1, 5, 24):
        times = grid(Flow(), steps, rule)
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    assert sample(mix, (2, 4), DDIM(), 5, rule=rule).isfinite().all()
    with pytest.raises(OrnsteinError, match="steps=25 with an optimal grid measured on 24 steps. Ask for at most 24"):
        grid(Flow(), 25, rule)
    with pytest.raises(OrnsteinError, match=r"calibrated for process 'Flow\(.*not for 'EDM"):
        grid(EDM(), 5, rule)
    with pytest.raises(OrnsteinError, match="there is no file of 'optimal_grid' at nowhere"):
        grid(Flow(), 5, "optimal:path='nowhere'")
