"""Teleportation is exact on Gaussian data, neutral where it skips nothing, and goes with every solver."""

from dataclasses import replace

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import Run
from ornstein.solvers.ddim import DDIM
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.solvers.heun import Heun
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.teleport import Teleport, fit, move
from ornstein.testbeds import Mixture

PROCESSES = {"edm": "karras", "flow": "uniform", "vp": "uniform", "vp:schedule=linear": "uniform"}
DOUBLE = torch.float64


def gaussian(spec: str, dims: int = 6) -> Mixture:
    std = torch.linspace(0.2, 1.5, dims, dtype=DOUBLE)[None]
    return Mixture(torch.linspace(-1, 1, dims, dtype=DOUBLE)[None], std, catalog.build("processes", spec))


def exact_statistics(one: Mixture, diagonal: bool):
    """Two data per axis at mean +- sqrt(D) std have that mean and that diagonal covariance."""
    way = torch.diag(one.stds[0]) * one.means.shape[1] ** 0.5
    return fit(torch.cat([one.means + way, one.means - way]), diagonal=diagonal)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("spec", PROCESSES)
def test_exact_on_a_gaussian(spec, diagonal):
    one = gaussian(spec)
    x = one.process.prior(torch.randn(20, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)))
    to = grid(one.process, 10, PROCESSES[spec])[4]
    got = move(exact_statistics(one, diagonal), one.process, x, one.process.t_max, to)
    assert torch.allclose(got, one.exact(x, None, to, steps=250), atol=1e-5)


def test_the_low_rank_form_is_the_full_one_where_the_rest_is_even():
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(400, 12, generator=generator, dtype=DOUBLE) * 0.3
    data[:, 0] *= 9
    full, low, process = fit(data), fit(data, rank=3), catalog.build("processes", "edm")
    assert low.arrays["basis"].shape == (12, 3) and float(low.arrays["variances"].sum() + 9 * low.arrays["rest"]) == (
        pytest.approx(float(full.arrays["variances"].sum())))  # fmt: skip
    x = process.prior(torch.randn(5, 12, generator=generator, dtype=DOUBLE))
    a, b = (move(s, process, x, 80.0, 2.0) for s in (full, low))
    assert (a - b).abs().max() < 0.01 * a.abs().mean() and not torch.allclose(a, move(fit(data, 1), process, x, 80.0, 0.1))
    few = fit(data[:4])  # fewer data than axes: nothing varies outside of their span
    assert float(few.arrays["rest"]) == 0 and few.arrays["basis"].shape == (12, 4)


@pytest.mark.parametrize("solver", [Heun(), DDIM(), DDIM(eta=1.0), DPMpp2M()], ids=str)
def test_neutral_is_the_plain_sampler_and_a_skip_saves_the_calls(solver):
    mixture = Mixture.random(catalog.build("processes", "edm"), dims=4, components=4, std=0.4)
    kw = dict(rule="karras", seed=3)
    plain = sample(mixture, (4, 4), solver, 12, **kw)
    assert torch.equal(sample(mixture, (4, 4), solver, 12, controllers=[Teleport()], **kw), plain)
    given = fit(mixture.sample(2000))  # nothing is skipped, and the grid starts at the prior: still bit for bit
    run = Run()
    assert torch.equal(sample(mixture, (4, 4), solver, 12, controllers=[Teleport(given)], run=run, **kw), plain)
    assert "teleport" not in run.record.facts
    times, statistics, runs = grid(mixture.process, 12, "karras"), fit(mixture.sample(2000)), (Run(), Run())
    sample(mixture, (4, 4), solver, 12, run=runs[0], **kw)
    x = sample(mixture, (4, 4), solver, 12, controllers=[Teleport(statistics, 4)], run=runs[1], **kw)
    calls = [r.record.calls["evaluations"] for r in runs]
    assert calls[0] - calls[1] == (8 if isinstance(solver, Heun) else 4) and torch.isfinite(x).all()
    tail = sample(mixture, (4, 4), solver, rule=times[4:].tolist(), seed=3, controllers=[Teleport(statistics)])
    assert torch.allclose(tail, x, atol=1e-5) or getattr(solver, "eta", 0)


def test_means_by_label_move_each_row_by_its_own():
    data = torch.cat([torch.randn(50, 2) * 0.1 + 2, torch.randn(50, 2) * 0.1 - 2])
    statistics = fit(data, labels=torch.arange(100) // 50)
    assert statistics.arrays["variances"].max() < 0.05
    process = catalog.build("processes", "flow")
    x = move(statistics, process, torch.zeros(2, 2), 1.0, 0.5, torch.tensor([1, 0]))
    assert torch.allclose(x, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=0.1)
    mixture = Mixture(torch.tensor([[2.0, 2.0], [-2.0, -2.0]]), torch.tensor(0.1), process)
    run = dict(rule="uniform", controllers=[Teleport(statistics, 5)])
    for cond in (None, {"label": torch.tensor([0, 2])}):
        with pytest.raises(OrnsteinError, match="of 2 labels"):
            sample(mixture, (2, 2), DDIM(), 10, cond=cond, **run)
    x = sample(mixture, (2, 2), DDIM(), 10, cond={"label": torch.tensor([1, 0])}, **run)
    assert (x[0] < 0).all() and (x[1] > 0).all()


def test_after_a_search_all_particles_are_moved():
    mixture = Mixture.random(catalog.build("processes", "edm"), dims=4, components=4, std=0.4)
    seen = []
    jump = Teleport(fit(mixture.sample(2000)), 4)
    kw = dict(rule="karras", seed=3, progress=lambda state, n: seen.append((state.step, state.x)))
    won = sample(mixture, (3, 4), Heun(), 12, controllers=[BestOfN(lambda x, c: x[:, 0], 5), jump], **kw)
    assert seen[0][0] == 5 and seen[0][1].shape == (15, 4) and seen[0][1].abs().max() < 40
    plain = sample(mixture, (3, 4), Heun(), 12, controllers=[jump], **kw)
    assert torch.allclose(seen[7][1][::5], plain, atol=1e-5) and (won[:, 0] >= plain[:, 0] - 1e-5).all()


def test_what_does_not_fit_is_refused():
    mixture = Mixture.random(catalog.build("processes", "edm"), dims=4)
    statistics = fit(mixture.sample(100))
    with pytest.raises(OrnsteinError, match="nothing of 12 steps"):
        sample(mixture, (2, 4), DDIM(), 12, rule="karras", controllers=[Teleport(statistics, 12)])
    for bad in ((None, 2), (statistics, -1)):
        with pytest.raises(OrnsteinError, match="needs statistics"):
            Teleport(*bad)
    with pytest.raises(OrnsteinError, match="of kind 'gate'"):
        Teleport(replace(statistics, kind="gate"), 2)
    with pytest.raises(OrnsteinError, match="shape"):
        sample(mixture, (2, 2, 2), DDIM(), 12, controllers=[Teleport(statistics, 3)])
    with pytest.raises(OrnsteinError, match="no spread"):
        fit(mixture.sample(1))


def test_statistics_survive_a_file(tmp_path):
    from ornstein.core.artefact import Artefact

    process, statistics = catalog.build("processes", "edm"), fit(torch.randn(30, 1, 4, 4), rank=5)
    again = Artefact.load(statistics.save(tmp_path / "statistics.safetensors"), "teleport")
    x = process.prior(torch.randn(3, 1, 4, 4))
    assert torch.equal(move(again, process, x, 80.0, 3.0), move(statistics, process, x, 80.0, 3.0))
