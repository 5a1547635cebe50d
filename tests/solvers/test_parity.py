"""The same model, grid and start through diffusers' schedulers."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture

diffusers = pytest.importorskip("diffusers")
DOUBLE = torch.float64


def mixture_and_start(process: str) -> tuple[Mixture, torch.Tensor]:
    mixture = Mixture.random(catalog.build("processes", process))
    noise = torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    return mixture, mixture.process.corrupt(mixture.sample(4), noise, mixture.process.t_max)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    assert (one.double() - other.double()).abs().max() < 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(shift):
    mixture, x = mixture_and_start("flow")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(15)
    y = x.clone()
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.double()):
        y = scheduler.step(mixture(y, sigma).velocity, t, y).prev_sample.double()
    close(sample(mixture, x, catalog.build("solvers", "euler"), rule=scheduler.sigmas.double().tolist(), dtype=DOUBLE), y)


@pytest.mark.parametrize("name, theirs", [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler")])
def test_sigma_ladder(name, theirs):
    """Their VP schedulers work on x/a at sigma = s/a: EDM's process, with its noise prediction."""
    mixture, x = mixture_and_start("edm")
    scheduler = getattr(diffusers, theirs)(use_karras_sigmas=True, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    x = x / 80 * sigmas[0]
    y = x.clone()
    for t in scheduler.timesteps:
        sigma = sigmas[scheduler.step_index or 0]  # Heun's ladder holds every inner level twice
        y = scheduler.step(mixture(y, sigma).noise, t, y).prev_sample.double()
    grid = sigmas.tolist() if name == "euler" else [sigmas[0].item(), *sigmas[1::2].tolist()]
    close(sample(mixture, x, catalog.build("solvers", name), rule=grid, dtype=DOUBLE), y)


def vp_times(mixture: Mixture, scheduler, steps: list[int]) -> tuple[list[float], torch.Tensor]:
    """Our time at each of their alphas, and at the last one they step to."""
    alphas = scheduler.alphas_cumprod.double()[steps]
    return mixture.process.time((alphas / (1 - alphas)).log()).tolist(), alphas


def test_ddim():
    mixture, _ = mixture_and_start("vp")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    times, _ = vp_times(mixture, scheduler, steps)
    x = torch.randn(4, 16, dtype=DOUBLE)
    y = x.clone()
    for k, t in enumerate(steps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample
    # their last alpha is exactly 1, as is ours at t = 0
    close(sample(mixture, x, catalog.build("solvers", "ddim"), rule=[*times, 0.0], dtype=DOUBLE), y)


def test_dpmpp2m():
    mixture, _ = mixture_and_start("vp")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", timestep_spacing="trailing",
        lower_order_final=True)  # fmt: skip
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas.double()[:-1]  # s/a
    times = mixture.process.time(-2 * sigmas.log()).tolist()
    x = torch.randn(4, 16, dtype=DOUBLE)
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample.double()
    close(sample(mixture, x, catalog.build("solvers", "dpmpp2m"), rule=[*times, 0.0], dtype=DOUBLE), y)
