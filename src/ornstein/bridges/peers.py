"""The schedulers of diffusers, driven on a denoiser of ornstein: peers for a comparison at equal network calls.

Each works on its own ladder of levels, made from the process so that it is the same as ours: 1000 levels for a process
whose prior has some signal, of which a run takes every so many ("trailing"), or flow time for the linear flow. The state
is carried into the process and back at every call, so that the denoiser is asked what it would be asked by our solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.process import Process, grid

__all__ = ["PEERS", "calls", "run", "version"]

LEVELS = 1000
TRAILING = {"timestep_spacing": "trailing", "num_train_timesteps": LEVELS}
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
        import diffusers
    except ImportError:
        return ""
    return diffusers.__version__


@lru_cache(maxsize=8)
def _levels(process: Process, rule: str) -> Tensor:
    """The sigma = s/a of the 1000 levels, rising, float64: the grid of 1000 steps from the prior, without its end."""
    a, s, *_ = process.coefficients(grid(process, LEVELS, rule)[:-1].flip(0))
    return s / a


def _scheduler(kind: str, name: str, process: Process, rule: str, steps: int) -> Any:
    import diffusers

    part, settings, _ = PEERS[kind][name]
    if kind != "flow":
        alphas = 1 / (1 + _levels(process, rule) ** 2)  # the product of 1 - beta
        betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
        settings = {**TRAILING, "trained_betas": betas.tolist(), **settings}
    made = getattr(diffusers, part)(**settings)
    made.set_timesteps(steps)
    return made


@lru_cache(maxsize=1024)
def calls(kind: str, name: str, process: Process, rule: str, steps: int) -> int:
    """How often it asks the network in so many steps."""
    return len(_scheduler(kind, name, process, rule, steps).timesteps)


@torch.no_grad()
def run(kind: str, name: str, denoiser: Denoises, start: Tensor, rule: str, steps: int) -> Tensor:
    """From the prior's `start` to the data. kind: 'flow', 'vp' or 'edm'; rule: the grid that its levels are taken from."""
    process = denoiser.process
    scheduler = _scheduler(kind, name, process, rule, steps)
    ask = _of_flow(denoiser) if kind == "flow" else _of_ladder(denoiser, _levels(process, rule), PEERS[kind][name][2])
    x = start / process.at(process.t_max, start).a if PEERS[kind][name][2] else start
    if kind != "flow" and not PEERS[kind][name][2]:  # our state to theirs, whose a^2 + s^2 = 1
        L = process.at(process.t_max, start)
        x = start / (L.a**2 + L.s**2).sqrt()
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
