"""The linear multistep solvers against diffusers' schedulers: the same model, levels and start."""

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture

diffusers = pytest.importorskip("diffusers")
DOUBLE = torch.float64
STEPS = 20  # from 15 on, their schedulers do not lower the order of the second to last step


def both(scheduler, spec: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of a VP trajectory by a scheduler that is told the noise, and by ours on the same levels."""
    mixture = Mixture.random(catalog.build("processes", "vp"))
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = sigmas = scheduler.sigmas.double()  # s/a, the last 0 or that of their first time; not rounded anew
    times = [0.0 if sigma == 0 else mixture.process.time(-2 * sigma.log()).item() for sigma in sigmas]
    x = torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample.double()
    return sample(mixture, x, catalog.build("solvers", spec), rule=times, dtype=DOUBLE), y


def difference(scheduler, spec: str) -> float:
    ours, theirs = both(scheduler, spec)
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("order, spec", [(1, "ddim"), (2, "dpmpp2m"), (3, "dpmpp3m")])
def test_dpmpp(order, spec):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=order, final_sigmas_type="zero", timestep_spacing="trailing")  # fmt: skip
    assert difference(scheduler, spec) < 1e-5


def test_dpmpp3m_with_the_whole_curvature_is_another():
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, timestep_spacing="trailing")
    assert difference(scheduler, "dpmpp3m:faithful=False") > 1e-3


@pytest.mark.parametrize("points", [1, 2, 3])
def test_deis(points):
    """Theirs is polynomial in log rho and ends at the level of their first time, not at 0."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=points, timestep_spacing="trailing")
    assert difference(scheduler, f"deis:variable=logrho,points={points}") < 1e-5


@pytest.mark.parametrize("predicts", ["x0", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("points", [1, 2, 3])
def test_unipc(points, variant, predicts):
    """At full order to the end, which is the level of their first time."""
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=points, solver_type=variant, predict_x0=predicts == "x0", lower_order_final=False,
        final_sigmas_type="sigma_min", timestep_spacing="trailing")  # fmt: skip
    assert difference(scheduler, f"unipc:points={points},variant={variant},predicts={predicts}") < 1e-5


def test_unipc_to_the_data():
    """Theirs by default: order 2, bh2, x0, and the step to s = 0 of first order."""
    assert difference(diffusers.UniPCMultistepScheduler(timestep_spacing="trailing"), "unipc") < 1e-5


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_lms(points):
    """On x/a at sigma = s/a, which is EDM's process, to sigma = 0."""
    mixture = Mixture.random(catalog.build("processes", "edm"))
    scheduler = diffusers.LMSDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double()
    x = torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3)) * sigmas[0]
    y = x.clone()
    for t, sigma in zip(scheduler.timesteps, sigmas):
        scheduler.scale_model_input(y, t)
        y = scheduler.step(mixture(y, sigma).noise, t, y, order=points).prev_sample.double()
    ours = sample(mixture, x, catalog.build("solvers", f"lms:points={points}"), rule=sigmas.tolist(), dtype=DOUBLE)
    assert (ours - y).abs().max() < 1e-5


@pytest.mark.parametrize("points, ours", [(1, "ddim"), (2, "dpmpp2m"), (3, "dpmpp3m")])
def test_edm_multistep(points, ours):
    """EDMDPMSolverMultistepScheduler: the same methods on EDM's process, whose network says F (Karras et al., table 1)."""
    mixture = Mixture.random(catalog.build("processes", "edm"))
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(solver_order=points, lower_order_final=False)
    scheduler.set_timesteps(20)
    sigmas, d = scheduler.sigmas.double(), scheduler.config.sigma_data
    x = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * sigmas[0]
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        s = sigmas[k]
        skip, scale = d**2 / (s**2 + d**2), s * d / (s**2 + d**2).sqrt()
        y = scheduler.step((mixture(y, s).x0 - skip * y) / scale, t, y).prev_sample.double()
    end = sample(mixture, x, catalog.build("solvers", ours), rule=sigmas.tolist(), dtype=torch.float64)
    assert (end - y).abs().max() < 1e-5
