"""DPM-Solver-v3: its constant tables are the older solvers, its statistics are those of a Gaussian, its file is refused."""

import pytest
import torch

from ornstein.core.artefact import Artefact, describe
from ornstein.core.catalog import build
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.processes.flow import Flow
from ornstein.processes.vp import VP
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.solvers.dpmsolver_v3 import KIND, DPMSolverV3, calibrate
from ornstein.solvers.layers.empirical import Style, Table, weights
from ornstein.solvers.layers.exponential import Rule, advance
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


def mixture(process=None, **settings) -> Mixture:
    return Mixture.random(process or Flow(), dims=4, components=3, std=0.5, **settings)


@pytest.mark.parametrize("process", ["flow", "vp", "vp:schedule=linear", "edm"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_without_statistics_it_is_the_older_solver(process, steps):
    mix = mixture(build("processes", process))
    rule = "karras" if process == "edm" else "uniform"
    for solver, older in ((DPMSolverV3(points=2, corrector=False, half=True), DPMpp2M()),
                          (DPMSolverV3(points=1, corrector=False), build("solvers", "ddim"))):  # fmt: skip
        one, two = (sample(mix, (6, 4), s, steps, rule=rule, dtype=DOUBLE) for s in (solver, older))
        assert torch.allclose(one, two, atol=1e-10, rtol=0)


def test_a_table_of_the_same_numbers_is_the_older_solver_too():
    """By way of a file's arrays, per coordinate, and a span that ends before the data."""
    mix, zero = mixture(), torch.zeros(31, 4, dtype=DOUBLE)
    mark = describe(mix, shape=(4,))
    same = Artefact(KIND, {"less": zero, "s": zero, "b": zero}, {"span": [-6.9, 6.9]}, mark)
    solver = DPMSolverV3(same, points=2, corrector=False, half=True)
    one, two = (sample(mix, (6, 4), s, 12, dtype=DOUBLE) for s in (solver, DPMpp2M()))
    assert torch.allclose(one, two, atol=1e-10, rtol=0)


@pytest.mark.parametrize("answer, l, s", [("x0", 1.0, 0.0), ("noise", 0.0, -1.0)])
@pytest.mark.parametrize("nodes", [(0.6,), (0.6, 0.75), (0.6, 0.75, 0.8), (0.6, 0.5, 0.75, 0.8)])
def test_steps_of_dpm_solver_and_its_plus_plus(answer, l, s, nodes):
    """Against the other engine: l = 1, s = 0 integrates x0, l = 0, s = -1 the noise; 1 to 4 nodes, one of them ahead."""
    process, x = VP(), torch.randn(5, 3, dtype=DOUBLE)
    said = [Mixture.random(process, dims=3)(x + 0.1 * j, t) for j, t in enumerate(nodes)]
    other = advance(Rule(answer), process, x, said[0], 0.45, nodes, [p.get(answer) for p in said])
    ahead = [process.at(t, x).sigma for t in nodes]
    f = [-p.x0 if answer == "x0" else sigma * p.noise for p, sigma in zip(said, ahead)]
    scale, constant, *rest = weights(Table.constant(l, s), process, Style(), 0.45, nodes, DOUBLE, x.device)
    assert torch.allclose(scale * x + constant + sum(w * v for w, v in zip(rest, f)), other, atol=1e-10)


def test_gaussian_statistics_and_one_exact_step():
    """For a Gaussian per coordinate: l = sigma^2/(v + sigma^2), and one step of first order lands where the ODE does."""
    std, centre = torch.tensor([[0.3, 1.5]], dtype=DOUBLE), torch.tensor([[0.7, -0.4]], dtype=DOUBLE)
    mix = Mixture(centre, std, Flow())
    found = calibrate(mix, mix.sample(32), points=160)
    low, high = found.settings["span"]
    sigma = torch.linspace(low, high, 161, dtype=DOUBLE).neg().exp()[:, None]
    assert torch.allclose(found.arrays["less"], -(std**2) / (std**2 + sigma**2), atol=1e-6)
    x = mix.process.corrupt(mix.sample(5, seed=3), torch.randn(5, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)), 0.9)
    for end in (0.2, 0.0):
        exact, solvers = mix.exact(x, 0.9, end, steps=150), (DPMSolverV3(found, points=1, corrector=False), DPMpp2M())
        one, two = ((sample(mix, x, solver, rule=[0.9, end]) - exact).abs().max() for solver in solvers)
        assert one < 0.02 * two  # not nothing: the table is linear between its points


def test_convergence_with_statistics():
    """To the exact end, with all settings; the table's kinks leave second order where the steps are below its spacing."""
    mix = mixture(seed=1)
    found = calibrate(mix, mix.sample(128), points=60, batch=128)
    x = mix.process.corrupt(mix.sample(8), torch.randn(8, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)), 0.9)
    exact = mix.exact(x, 0.9, 0.3, steps=200)
    for settings, factor in (({}, 30), ({"points": 3}, 30), ({"points": 1}, 30), ({"pseudo": True, "points": 3}, 30),
                             ({"corrector": False}, 30), ({"points": 1, "corrector": False}, 6)):  # fmt: skip
        error = []
        for n in (6, 48):
            h = torch.tensor([1.0, 2.0], dtype=DOUBLE).repeat(n // 2).cumsum(0)
            times = [0.9, *(0.9 - 0.6 * h / h[-1]).tolist()]
            error.append((sample(mix, x, DPMSolverV3(found, **settings), rule=times) - exact).square().mean().sqrt().item())
        assert error[1] < error[0] / factor, (settings, error)


def test_rows_at_times_of_their_own_with_statistics():
    mix = mixture()
    solver = DPMSolverV3(calibrate(mix, mix.sample(128), points=40, batch=128))
    times = torch.tensor([[1.0, 0.6, 0.5, 0.1, 0.0], [0.8, 0.7, 0.0, 0.0, 0.0], [0.95, 0.5, 0.3, 0.2, 0.05]], dtype=DOUBLE)
    x, source = torch.randn(3, 4, dtype=DOUBLE), NoiseSource.of(0, range(3))

    def go(y, times):
        memory = solver.start(y, source)
        for t, s in zip(times[..., :-1].unbind(-1), times[..., 1:].unbind(-1)):
            y, memory = solver.step(mix, mix.process, y, t, s, memory)
        return y

    together = go(x, times)
    assert torch.isfinite(together).all()
    for i in range(3):
        assert torch.allclose(together[i], go(x[i : i + 1], times[i])[0], atol=1e-10), i


def test_the_file(tmp_path):
    mix = mixture()
    made = calibrate(mix, mix.sample(64).float(), points=30)
    file = made.save(tmp_path / "v3.safetensors")
    solver = build("solvers", f"dpmsolver_v3:statistics='{file}',points=3")
    one = sample(mix, (6, 4), solver, 6)
    assert torch.equal(one, sample(mix, (6, 4), DPMSolverV3(made, points=3), 6))
    assert (one - sample(mix, (6, 4), DPMpp2M(), 6)).abs().max() > 1e-3
    with pytest.raises(OrnsteinError, match=r"calibrated for process 'Flow\(.*', not for 'VP\("):
        sample(mixture(VP()), (6, 4), solver, 6)
    with pytest.raises(OrnsteinError, match="calibrated for shape '4', not for '2x2'"):
        sample(mix, (6, 2, 2), solver, 6)
    with pytest.raises(OrnsteinError, match="there is no file of 'dpmsolver_v3'"):
        DPMSolverV3(str(tmp_path / "none"))
    with pytest.raises(OrnsteinError, match="points=4 of dpmsolver_v3. Give 1, 2 or 3."):
        DPMSolverV3(points=4)
