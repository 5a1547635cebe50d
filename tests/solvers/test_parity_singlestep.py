"""The same model, grid and start through diffusers' singlestep schedulers."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture

diffusers = pytest.importorskip("diffusers")
DOUBLE = torch.float64


def mixture_and_start(process: str) -> tuple[Mixture, torch.Tensor]:
    mixture = Mixture.random(catalog.build("processes", process))
    return mixture, torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert (one.double() - other.double()).abs().max() < 1e-5


def macro_steps(orders: list[int]) -> list[tuple[int, int]]:
    """(where it begins, its order) of each step of theirs, which counts every call as a step: 1, 2, 3, 1, 2, 1."""
    begins = [k for k, order in enumerate(orders) if order == 1]
    return [(k, end - k) for k, end in zip(begins, [*begins[1:], len(orders)])]


def theirs(kind: str, order: int, form: str, calls: int):
    """Their scheduler on levels that lie evenly in log-SNR, so that their nodes are at 1/2, 1/3 and 2/3; its end."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type=kind, solver_order=order, solver_type=form, lower_order_final=True, use_exponential_sigmas=True,
        final_sigmas_type="zero" if kind == "dpmsolver++" else "sigma_min")  # fmt: skip
    scheduler.set_timesteps(calls)
    mixture, x = mixture_and_start("vp")
    times = [float(mixture.process.time(-2 * v.log())) if v > 0 else 0.0 for v in scheduler.sigmas.double()]
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample.double()
    return mixture, x, times, macro_steps(scheduler.order_list), y


SAME = [(1, "midpoint", "paper"), (2, "midpoint", "paper"), (2, "heun", "taylor"), (3, "midpoint", "midpoint"),
        (3, "heun", "taylor")]  # fmt: skip


@pytest.mark.parametrize("order, form, ours", SAME)
@pytest.mark.parametrize("kind, name", [("dpmsolver", "dpmsolver"), ("dpmsolver++", "dpmpp2s")])
def test_dpmsolver_singlestep(kind, name, order, form, ours):
    mixture, x, times, steps, y = theirs(kind, order, form, 24)
    assert max(o for _, o in steps) == order
    for begin, o in steps:
        solver = catalog.build("solvers", f"{name}:order={o},form={ours}")
        t, s = (torch.tensor(times[k], dtype=DOUBLE) for k in (begin, begin + o))
        x, _ = solver.step(mixture, mixture.process, x, t, s, None)
    close(x, y)


@pytest.mark.parametrize("calls", [9, 10, 12, 13])
def test_the_fast_orders(calls):
    """Their orders of steps with a lower order last are the paper's; the whole way in one call of `sample`."""
    mixture, x, times, steps, y = theirs("dpmsolver", 3, "heun", calls)
    solver = catalog.build("solvers", f"dpmsolver:nfe={calls},form=taylor")
    assert solver.steps(mixture.process) == len(steps)
    grid = [times[begin] for begin, _ in steps]  # their last step, of order 1, goes from the last level to itself
    close(sample(mixture, x, solver, rule=grid, dtype=DOUBLE), y)


def test_dpm2_of_the_sigma_ladder_is_dpmsolver_2():
    """KDPM2: a midpoint rule in sigma whose middle is that of log sigma."""
    mixture, x = mixture_and_start("edm")
    scheduler = diffusers.KDPM2DiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(12)
    sigmas, middles = scheduler.sigmas.double(), scheduler.sigmas_interpol.double()
    x = x * sigmas[0]
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, (middles if k % 2 else sigmas)[k]).noise, t, y).prev_sample.double()
    grid = sorted({v.item() for v in sigmas}, reverse=True)
    close(sample(mixture, x, catalog.build("solvers", "dpmsolver:order=2"), rule=grid, dtype=DOUBLE), y)


@pytest.mark.parametrize("name", ["heun", "rk4:method=heun", "rhork:method=heun"])
def test_flow_heun(name):
    """rhoRK's Heun averages in s/a, not in t: it is another method, and differs."""
    mixture, x = mixture_and_start("flow")
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(12)
    y = x.clone()
    for t in scheduler.timesteps:
        y = scheduler.step(mixture(y, t.double() / 1000).velocity, t, y).prev_sample.double()
    grid = [scheduler.sigmas[0].item(), *scheduler.sigmas[1::2].tolist()]
    got = sample(mixture, x, catalog.build("solvers", name), rule=grid, dtype=DOUBLE)
    if name.startswith("rhork"):
        assert (got - y).abs().max() > 1e-3
    else:
        close(got, y)
