"""The stochastic solvers and diffusers' schedulers: same model, same grid, same start and the same noise."""

import importlib
import itertools
import sys
import types
from dataclasses import dataclass, field

import pytest
import torch

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.core.prediction import Output, Prediction
from ornstein.core.process import Process
from ornstein.testbeds import Mixture

diffusers = pytest.importorskip("diffusers")
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Table(Process):
    """A schedule of theirs at its whole-numbered times."""

    alphas: torch.Tensor = field(default_factory=lambda: torch.ones(1))
    t_max: float = 999.0

    def coefficients(self, t):
        alpha = self.alphas[torch.as_tensor(t).round().long()].to(t.dtype)
        return alpha.sqrt(), (1 - alpha).sqrt(), torch.zeros_like(t), torch.zeros_like(t)

    def time(self, logsnr):
        raise NotImplementedError


@pytest.fixture
def same_noise(monkeypatch):
    """Their randn_tensor hands out draw 0, 1, 2, ... of seed 0."""

    def patch(module: str):
        source, count = NoiseSource.of(0, range(4)), itertools.count()

        def drawn(shape, generator=None, device=None, dtype=None):
            return source.draw(next(count), torch.empty(shape, dtype=DOUBLE)).to(dtype or DOUBLE)

        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", drawn)

    return patch


def ground(process="vp") -> tuple[Mixture, torch.Tensor]:
    made = catalog.build("processes", process) if isinstance(process, str) else process
    return Mixture.random(made), torch.randn(4, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def close(one: torch.Tensor, other: torch.Tensor, bound: float = 2e-5) -> None:
    gap = (one.double() - other.double()).abs().max()
    assert gap < bound, f"apart by {gap:.2e}"


def ours(mixture, x, solver, times) -> torch.Tensor:
    return sample(mixture, x, catalog.build("solvers", solver) if isinstance(solver, str) else solver, rule=times,
                  dtype=DOUBLE)  # fmt: skip


@pytest.mark.parametrize("order, slope, spec", [
    (1, "midpoint", "dpmpp_sde:kind='1S'"), (1, "midpoint", "euler_ancestral"), (2, "midpoint", "dpmpp_sde"),
    (2, "heun", "dpmpp_sde:slope=heun"), (2, "heun", "sa_solver:corrector=0")])  # fmt: skip
def test_dpm_solver_sde_multistep(order, slope, spec, same_noise):
    same_noise("dpmsolver_multistep")
    mixture, x = ground()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=slope, final_sigmas_type="zero",
        timestep_spacing="trailing")  # fmt: skip
    scheduler.set_timesteps(20)
    times = mixture.process.time(-2 * scheduler.sigmas.double()[:-1].log()).tolist()
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample.double()
    close(ours(mixture, x, spec, [*times, 0.0]), y)


def test_three_steps_of_released_3m():
    """k-diffusion's formula, H = (1 + eta) h: phi2 = (e^-H - 1)/H + 1, phi3 = phi2/H - 1/2, + phi2 D1 - phi3 D2."""
    mixture, x = ground("edm")
    sigmas, eta = torch.tensor([3.0, 2.2, 1.2, 0.7, 0.5], dtype=DOUBLE), 0.6
    source, y, told, steps = NoiseSource.of(0, range(4)), x.clone(), [], []
    for k, (one, two) in enumerate(itertools.pairwise(sigmas)):
        h = (one / two).log()
        H, x0 = h * (1 + eta), mixture(y, one).x0
        new = (-H).exp() * y - torch.expm1(-H) * x0 + source.draw(k, y) * two * (-torch.expm1(-2 * h * eta)).sqrt()
        phi2 = torch.expm1(-H) / H + 1
        if len(told) == 1:
            new = new + phi2 * (x0 - told[-1]) * h / steps[-1]
        elif told:
            r0, r1 = steps[-1] / h, steps[-2] / h
            one_, two_ = (x0 - told[-1]) / r0, (told[-1] - told[-2]) / r1
            new = new + phi2 * (one_ + (one_ - two_) * r0 / (r0 + r1)) - (phi2 / H - 0.5) * (one_ - two_) / (r0 + r1)
        y, told, steps = new, [*told, x0], [*steps, h]
    close(ours(mixture, x, f"dpmpp_sde:kind='3M',eta={eta},slope=heun,faithful=True", sigmas.tolist()), y, 1e-10)
    assert (ours(mixture, x, f"dpmpp_sde:kind='3M',eta={eta},slope=heun", sigmas.tolist()) - y).abs().max() > 1e-4


def test_dpm_solver_sde_singlestep(monkeypatch):
    """Their Brownian tree is asked for the first half, then for the whole: here with our correlation of the two."""
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))  # the tree, which is not grown here
    theirs = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    mixture, x = ground("edm")
    scheduler = theirs.DPMSolverSDEScheduler(use_karras_sigmas=True, timestep_spacing="linspace")
    scheduler.set_timesteps(12)
    source, count, held = NoiseSource.of(0, range(4)), itertools.count(), []

    def brownian(sigma, to):
        k = next(count)
        xi = source.draw(k, x)
        held.append((sigma, to, xi))
        if k % 2 == 0:
            return xi.float()
        _, mid, first = held[-2]
        snr = [float(v) ** -2 for v in (sigma, mid, to)]
        part = (snr[1] - snr[0]) / (snr[2] - snr[0])
        return (part**0.5 * first + (1 - part) ** 0.5 * xi).float()

    scheduler.noise_sampler = brownian
    ladder = [scheduler.sigmas[0].item(), *scheduler.sigmas[1::2].tolist()]
    x = x * ladder[0]
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        sigma = ladder[k // 2] if k % 2 == 0 else (ladder[k // 2] * ladder[k // 2 + 1]) ** 0.5
        y = scheduler.step(mixture(y, sigma).noise.float(), t, y.float()).prev_sample.double()
    close(ours(mixture, x, "dpmpp_sde:kind='2S'", ladder), y, 1e-4)


@pytest.mark.parametrize("p, c", [(1, 1), (2, 2), (3, 3), (3, 2), (1, 3)])
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_sa_solver(p, c, tau, same_noise):
    same_noise("sasolver")
    mixture, x = ground()
    scheduler = diffusers.SASolverScheduler(predictor_order=p, corrector_order=c, tau_func=lambda t: torch.tensor(tau),
                                            lower_order_final=False, timestep_spacing="trailing")  # fmt: skip
    scheduler.set_timesteps(12)
    times = mixture.process.time(-2 * scheduler.sigmas.double().log()).tolist()
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample
    close(ours(mixture, x, f"sa_solver:tau={tau},predictor={p},corrector={c},taylor=True", times), y, 1e-4)


def test_sa_solver_with_noise_in_an_interval(same_noise):
    same_noise("sasolver")
    mixture, x = ground()
    scheduler = diffusers.SASolverScheduler(lower_order_final=False, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    scheduler.tau_func = lambda t: torch.tensor(1.0 if 0.05 <= sigmas[int((scheduler.timesteps == t).nonzero())] <= 1 else 0.0)
    times = mixture.process.time(-2 * sigmas.log()).tolist()
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample
    close(ours(mixture, x, "sa_solver:low=0.05,high=1,taylor=True", times), y, 1e-4)


def test_euler_ancestral(same_noise):
    same_noise("euler_ancestral_discrete")
    mixture, x = ground("edm")
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    x = x * sigmas[0]
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(y, t)
        y = scheduler.step(mixture(y, sigmas[k]).noise, t, y).prev_sample.double()
    close(ours(mixture, x, "euler_ancestral", sigmas.tolist()), y)


@pytest.mark.parametrize("eta, s_noise", [(1.0, 1.0), (0.4, 1.1)])
def test_euler_ancestral_of_rectified_flow(eta, s_noise, same_noise):
    same_noise("ltx_euler_ancestral_rf")
    mixture, x = ground("flow")
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=eta, s_noise=s_noise)
    scheduler.set_timesteps(sigmas=torch.linspace(0.98, 0.0, 13).tolist())
    sigmas = scheduler.sigmas.double()
    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, sigmas[k]).velocity, t, y).prev_sample.double()
    close(ours(mixture, x, f"euler_ancestral:down=flow,eta={eta},s_noise={s_noise}", sigmas.tolist()), y)


def test_churn_is_that_of_edm_euler(same_noise):
    """To sigma = 0 algorithm 2 takes Euler's step, which is all that their scheduler takes."""
    same_noise("edm_euler")
    mixture, x = ground("edm")
    for sigma, churn in ((2.0, 0.3), (5.0, 10.0), (0.01, 0.3)):
        scheduler = diffusers.EDMEulerScheduler()
        scheduler.sigmas, scheduler._step_index = torch.tensor([sigma, 0.0], dtype=DOUBLE), 0
        scheduler.is_scale_input_called = True
        gamma = min(churn, 2**0.5 - 1) if sigma > 0.02 else 0.0
        same_noise("edm_euler")
        raised = sigma * (1 + gamma)
        xi = NoiseSource.of(0, range(4)).draw(0, x)
        there = x * sigma + 1.003 * (raised**2 - sigma**2) ** 0.5 * xi
        y = scheduler.step(x, torch.tensor(0.0), x * sigma, s_churn=churn, s_tmin=0.02, s_noise=1.003,
                           pred_original_sample=mixture(there, raised).x0).prev_sample  # fmt: skip
        spec = f"edm_heun:churn={churn},low=0.02,s_noise=1.003,steps=1"
        close(ours(mixture, x * sigma, spec, [sigma, 0.0]), y)


def test_lcm(same_noise):
    same_noise("lcm")
    mixture, x = ground()
    scheduler = diffusers.LCMScheduler(clip_sample=False, timestep_scaling=0.01)
    scheduler.set_timesteps(5)
    alphas = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    times = mixture.process.time((alphas / (1 - alphas)).log()).tolist()
    scaled = dict(zip(times, (scheduler.get_scalings_for_boundary_condition_discrete(t) for t in scheduler.timesteps)))

    @dataclass(frozen=True)
    class Scaled:
        """Their scalings at the data, where they belong: in the denoiser."""

        process: Process

        def __call__(self, x, t, cond=None, clock=None):
            skip, out = scaled[float(t)]
            said = mixture(x, t)
            return said.like("x0", skip * x + out * said.x0)

    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(mixture(y, times[k]).noise, t, y).prev_sample
    close(ours(Scaled(mixture.process), x, "lcm", [*times, 0.0]), y)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_tcd(gamma, same_noise):
    same_noise("tcd")
    scheduler = diffusers.TCDScheduler()
    scheduler.set_timesteps(timesteps=[980, 700, 440, 120])
    mixture, x = ground(Table(scheduler.alphas_cumprod.double()))
    y = x.clone()
    for t in scheduler.timesteps:
        y = scheduler.step(mixture(y, float(t)).noise, t, y, eta=gamma).prev_sample
    close(ours(mixture, x, f"tcd:gamma={gamma}", [*scheduler.timesteps.double().tolist(), 0.0]), y)


@pytest.mark.parametrize("theirs, variance", [("fixed_small", "small"), ("fixed_large", "large"), ("learned_range", "range")])
def test_ddpm(theirs, variance, same_noise):
    same_noise("ddpm")
    mixture, x = ground()
    scheduler = diffusers.DDPMScheduler(variance_type=theirs, clip_sample=False)
    scheduler.set_timesteps(20)
    alphas = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    times = mixture.process.time((alphas / (1 - alphas)).log()).tolist()
    place = torch.linspace(-1, 1, 16, dtype=DOUBLE).expand(4, 16)

    @dataclass(frozen=True)
    class Learned:
        process: Process

        def __call__(self, x, t, cond=None, clock=None):
            said = mixture(x, t)
            return Prediction(x, said.levels, "x0", said.x0, Output(said.x0, extra={"variance": place}))

    y = x.clone()
    for k, t in enumerate(scheduler.timesteps):
        said = mixture(y, times[k]).noise
        y = scheduler.step(torch.cat([said, place], 1) if variance == "range" else said, t, y).prev_sample
    close(ours(Learned(mixture.process), x, f"ddpm:variance={variance}", [*times, 0.0]), y, 1e-4)
