"""PNDM against diffusers' schedulers, its classical coefficients, and the calls that each warm-up costs."""

from dataclasses import dataclass

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import Process
from ornstein.core.seam import Run
from ornstein.solvers.layers.adams import adams, constant, means
from ornstein.testbeds import Mixture

DOUBLE = torch.float64


@dataclass(frozen=True)
class Table(Process):
    """A schedule by its table: alpha-bar of step i at t = (i + 1)/N, 1 at t = 0; log alpha-bar straight between."""

    bars: tuple[float, ...] = (1.0,)

    def coefficients(self, t):
        logs = torch.tensor([1.0, *self.bars], dtype=DOUBLE).log()
        place = (t.double() * (len(logs) - 1)).clamp(0, len(logs) - 1)
        low = place.round().where((place - place.round()).abs() < 1e-6, place.floor()).long().clamp(max=len(logs) - 2)
        bar = (logs[low] + (place - low) * (logs[low + 1] - logs[low])).exp()
        return bar.sqrt(), (1 - bar).clamp_min(0).sqrt(), torch.zeros_like(t), torch.zeros_like(t)

    def time(self, logsnr):
        raise NotImplementedError


@pytest.mark.parametrize("warmup, skip, steps", [("rk", False, 10), ("rk", False, 25), ("improved", True, 10),
                                                 ("improved", True, 25)])  # fmt: skip
def test_the_published_form_is_that_of_diffusers(warmup, skip, steps):
    """PNDMScheduler, float64: alphas to the data, steps of equal indices."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=skip, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(steps)
    mixture = Mixture.random(Table(bars=tuple(scheduler.alphas_cumprod.tolist())))
    x = torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    for t in scheduler.timesteps:
        y = scheduler.step(mixture(y, (float(t) + 1) / 1000).noise, t, y).prev_sample
    run = Run()
    solver = catalog.build("solvers", f"pndm:warmup={warmup},faithful=True")
    times = [(1000 - 1000 // steps * k - 1000 // steps + 1) / 1000 for k in range(steps)]
    end = sample(mixture, x, solver, rule=[*times, 0.0], run=run)
    assert run.record.calls["evaluations"] == len(scheduler.timesteps)
    assert (end - y).abs().max() < 1e-5 * (1 + y.abs().max())


def test_low_order_start_is_ipndm():
    """IPNDMScheduler: a = cos, s = sin of equal angles, told v = a noise - s x0."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(12)
    mixture = Mixture.random(catalog.build("processes", "vp"))
    a, s = scheduler.alphas.double(), scheduler.betas.double()
    times = mixture.process.time(2 * (a / s).log().clamp_min(-6.9)).clamp(max=1)[:-1]
    times = times[1:].tolist()  # their first a is 0: that step is taken from the next one on
    x = torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    y, scheduler._step_index = x.clone(), 1
    for k, t in enumerate(scheduler.timesteps[1:]):
        y = scheduler.step(mixture(y, times[k]).v, t, y).prev_sample.double()
    end = sample(mixture, x, catalog.build("solvers", "pndm:faithful=True"), rule=[*times, 0.0])
    assert (end - y).abs().max() < 1e-5


def test_classical_coefficients():
    assert torch.tensor(constant(4)).mul(24).allclose(torch.tensor([55.0, -59.0, 37.0, -9.0]))
    assert torch.tensor(constant(4, ago=1)).mul(24).allclose(torch.tensor([9.0, 19.0, -5.0, 1.0]))


def test_weights_are_exact_for_polynomials():
    """Mean over sigma of tau^2 through three uneven nodes, and that rows get what scalars get."""
    nodes, low, high = [torch.tensor(v, dtype=DOUBLE) for v in (0.5, 0.6, 0.85)], *torch.tensor([0.5, 0.3], dtype=DOUBLE)
    found = sum(w * v**2 for w, v in zip(means(nodes, low, high), nodes))
    sigma = torch.linspace(1.0, 3 / 7, 200001, dtype=DOUBLE)
    assert abs(found - torch.trapezoid((sigma / (1 + sigma)) ** 2, sigma) / (3 / 7 - 1)) < 1e-9
    rows = means([v.expand(2, 1) for v in nodes], low.expand(2, 1), high.expand(2, 1))
    assert all(torch.allclose(r, torch.full_like(r, w)) for r, w in zip(rows, means(nodes, low, high)))


@pytest.mark.parametrize("warmup, more", [("low", 0), ("improved", 1), ("rk", 9)])
@pytest.mark.parametrize("process", ["flow", "vp"])
def test_calls(process, warmup, more):
    run = Run()
    mixture = Mixture.random(catalog.build("processes", process))
    sample(mixture, (2, 16), catalog.build("solvers", f"pndm:warmup={warmup}"), 12, run=run)
    assert run.record.calls["evaluations"] == 12 + more


@pytest.mark.parametrize("spec", ["pndm:terms=5", "pndm:terms=0", "pndm:warmup=heun"])
def test_settings(spec):
    with pytest.raises(OrnsteinError):
        catalog.build("solvers", spec)


@pytest.mark.parametrize("spec", ["pndm:warmup=rk", "pndm:warmup=improved", "pndm:terms=2", "pndm:faithful=True"])
def test_declared_orders(spec):
    """Of the settings that are not the default, on steps that alternate 1 : 2."""
    mixture = Mixture.random(catalog.build("processes", "flow"), dims=4, components=3, std=0.8, seed=1)
    noise = torch.randn(4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x, solver, errors = mixture.process.corrupt(mixture.sample(4), noise, 0.9), catalog.build("solvers", spec), []
    exact = mixture.exact(x, 0.9, 0.3, steps=600)
    for steps in (48, 96):
        h = torch.tensor([0.0] + [1.0, 2.0] * (steps // 2), dtype=DOUBLE).cumsum(0)
        errors.append((sample(mixture, x, solver, rule=(0.9 - 0.6 * h / h[-1]).tolist()) - exact).norm())
    assert abs((errors[0] / errors[1]).log2() - solver.order) < 0.3


def test_wild_extrapolation_is_not_done():
    """Steps that grow tenfold: the oldest noises get no weight, for each row by itself; gentle ones keep all."""
    wild, gentle = [0.9, 0.9009, 0.901, 0.90101], [0.5, 0.6, 0.7, 0.8]
    nodes = [torch.tensor([[w], [g]], dtype=DOUBLE) for w, g in zip(wild, gentle)]
    ahead, behind = adams(nodes, torch.tensor([[0.8], [0.4]], dtype=DOUBLE))
    for k, (line, to) in enumerate(((wild, 0.8), (gentle, 0.4))):
        alone = adams([torch.tensor(v, dtype=DOUBLE) for v in line], torch.tensor(to, dtype=DOUBLE))
        for rows, scalars in zip((ahead, behind), alone):
            assert torch.allclose(torch.stack([w[k, 0] for w in rows]), torch.tensor(scalars, dtype=DOUBLE))
    assert [float(w[0, 0]) for w in ahead] == [1, 0, 0, 0] and all(float(w[1, 0]) != 0 for w in ahead)


def test_two_nodes_that_are_one():
    both = [torch.tensor([[0.0], [0.3]], dtype=DOUBLE), torch.tensor([[0.0], [0.4]], dtype=DOUBLE)]
    ones, zeros = means(both, both[0], torch.tensor([[0.0], [0.2]], dtype=DOUBLE))
    assert (ones[0], zeros[0]) == (1, 0) and abs(ones[1] + zeros[1] - 1) < 1e-12 and zeros[1] < 0
