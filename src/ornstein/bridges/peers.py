"""The schedulers of diffusers, driven on a denoiser of ornstein: peers for a comparison at equal network calls.

Where the prior has some signal (vp, edm) a scheduler is given the very levels of one of our grids, so that step for step
it stands where our solvers do. On the linear flow it makes its own levels, as it would in a pipeline. The state is carried
into the process and back at every call, so that the denoiser is asked what our solvers would ask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.process import Process, grid

__all__ = ["PEERS", "calls", "run", "version"]

ZERO = {"final_sigmas_type": "zero"}
SHIFT = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# name -> (class, its settings, whether its state is x/a)
LADDER: dict[str, tuple[str, dict[str, Any], bool]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, False),
    "DPMSolverMultistep 2": ("DPMSolverMultistepScheduler", {"solver_order": 2, **ZERO}, False),
    "DPMSolverMultistep 3": ("DPMSolverMultistepScheduler", {"solver_order": 3, **ZERO}, False),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2, **ZERO}, False),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3, **ZERO}, False),
    "DEIS 2": ("DEISMultistepScheduler", {"solver_order": 2}, False),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, False),
    "Heun": ("HeunDiscreteScheduler", {}, True),
    "Euler": ("EulerDiscreteScheduler", {}, True),
}
FLOW: dict[str, tuple[str, dict[str, Any], bool]] = {
    "FlowMatchEuler": ("FlowMatchEulerDiscreteScheduler", {}, False),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}, False),
    "DPMSolverMultistep 2": ("DPMSolverMultistepScheduler", {"solver_order": 2, **ZERO, **SHIFT}, False),
    "DPMSolverMultistep 3": ("DPMSolverMultistepScheduler", {"solver_order": 3, **ZERO, **SHIFT}, False),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2, **ZERO, **SHIFT}, False),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3, **ZERO, **SHIFT}, False),
    "DEIS 2": ("DEISMultistepScheduler", {"solver_order": 2, **SHIFT}, False),
}
PEERS = {"flow": FLOW, "vp": LADDER, "edm": LADDER}


def version() -> str:
    """The version of diffusers, or nothing where it is not installed."""
    try:
        return metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        return ""


def _levels(process: Process, rule: str, steps: int) -> Tensor:
    """The sigma = s/a at which a run of so many steps of the grid asks, rising, float64 [steps]."""
    a, s, *_ = process.coefficients(grid(process, steps, rule)[:-1].flip(0))
    return s / a


def _scheduler(kind: str, name: str, process: Process, rule: str, steps: int) -> Any:
    import diffusers

    part, settings, _ = PEERS[kind][name]
    if kind == "flow":
        made = getattr(diffusers, part)(**settings)
        given = {"sigmas": grid(process, steps, rule)[:-1].tolist()} if name == "FlowMatchEuler" else {}
        made.set_timesteps(None if given else steps, **given)
        return made
    alphas = 1 / (1 + _levels(process, rule, steps) ** 2)  # the products of 1 - beta, as if trained with so few
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    made = getattr(diffusers, part)(timestep_spacing="trailing", num_train_timesteps=steps,
                                    trained_betas=betas.tolist(), **settings)  # fmt: skip
    made.alphas_cumprod = alphas  # not by way of betas, which lie too near 1 for their type
    made.set_timesteps(steps)
    if name == "DEIS 2":  # it does not step to 0, but to the lowest level that it was trained at
        L = process.at(process.t_min, alphas)
        made.sigmas[-1] = float(L.s / L.a)
    made.is_scale_input_called = True  # the denoiser is asked in our own scale
    return made


@lru_cache(maxsize=1024)
def calls(kind: str, name: str, process: Process, rule: str, steps: int) -> int:
    """How often it asks the network in so many steps."""
    return len(_scheduler(kind, name, process, rule, steps).timesteps)


@torch.no_grad()
def run(kind: str, name: str, denoiser: Denoises, start: Tensor, rule: str, steps: int) -> Tensor:
    """From the prior's `start` to the data. kind: 'flow', 'vp' or 'edm'; rule: the grid that its levels are taken from."""
    process, plain = denoiser.process, PEERS[kind][name][2]
    scheduler = _scheduler(kind, name, process, rule, steps)
    ask = _of_flow(denoiser) if kind == "flow" else _of_ladder(denoiser, _levels(process, rule, steps), plain)
    L, x = process.at(process.t_max, start), start
    if kind != "flow":  # our state to theirs
        x = start / (L.a if plain else (L.a**2 + L.s**2).sqrt())
    for t in scheduler.timesteps:
        x = scheduler.step(ask(scheduler, t, x), t, x).prev_sample.to(start.dtype)
    return x


def _of_flow(denoiser: Denoises) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Velocity at the flow time that the scheduler stands at."""

    def ask(scheduler: Any, t: Tensor, x: Tensor) -> Tensor:
        step = scheduler.step_index
        step = scheduler.index_for_timestep(t) if step is None else step
        return denoiser(x, float(scheduler.sigmas[step].double().clamp(max=1.0))).velocity

    return ask


def _of_ladder(denoiser: Denoises, sigmas: Tensor, plain: bool) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Noise at the level of that number; plain: the state is x0 + sigma noise, else its square mean is kept."""

    def ask(scheduler: Any, t: Tensor, x: Tensor) -> Tensor:
        sigma = float(sigmas[round(float(t))])
        time = float(denoiser.process.time(-2 * torch.tensor(sigma, dtype=torch.float64).log()))
        scale = denoiser.process.at(time, x).a * (1.0 if plain else (1 + sigma**2) ** 0.5)
        return denoiser(x * scale, time).noise

    return ask
