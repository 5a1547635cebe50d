"""A solver of ornstein that behaves as a scheduler of diffusers: the pipeline keeps its own loop, we make each step."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.bridges.layers.terms import Terms
from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction
from ornstein.core.process import grid
from ornstein.processes.flow import Flow

__all__ = ["OrnsteinScheduler"]


class _Once:
    """The answer that the pipeline has already computed, in the place of a denoiser: asked once, where it stands."""

    def __init__(self, x: Tensor, t: Tensor, prediction: Callable[[Tensor, Tensor], Prediction]) -> None:
        self.x, self.t, self.prediction, self.calls = x, t, prediction, 0

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        self.calls += 1
        if self.calls > 1 or x is not self.x or not torch.equal(torch.as_tensor(t).double(), self.t.double()):
            raise OrnsteinError("the solver asks the network more than once in a step, or at another place",
                                "A pipeline asks once: use a solver of one call (ddim, ddpm, euler, dpmpp2m), "
                                "or sample in ornstein's own loop.")  # fmt: skip
        return self.prediction(x, t)


@dataclass
class _Progress:
    """One call of a pipeline: times [steps + 1], the solver's memory, the next step."""

    times: Tensor
    timesteps: Tensor
    listed: list[float]  # the same on the host
    index: int | None = None
    memory: Any = None


@dataclass
class Stepped:
    """What `step` answers, by the name that pipelines use."""

    prev_sample: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.prev_sample,)[index]


class OrnsteinScheduler:
    """A one-call solver of ornstein in the place of a diffusers scheduler.

    The wrapped scheduler still chooses the timesteps (spacing, shift, custom lists), unless a grid is named: then it says only
    how many there are. Of a schedule of betas they are whole, each once, so that of very many some fall together. What a call
    of the pipeline has done so far is kept per thread, so that threads may share a pipeline.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, scheduler: Any, solver: Any, terms: Terms, grid: str | None = None) -> None:
        self.wrapped, self.solver, self.terms, self.config, self.grid = scheduler, solver, terms, scheduler.config, grid
        self._here = threading.local()
        self._try()

    @classmethod
    def from_scheduler(cls, scheduler: Any, solver: Any = "dpmpp2m", grid: str | None = None) -> OrnsteinScheduler:
        """scheduler: of the pipeline; solver: 'ddim', 'ddpm', 'euler', 'dpmpp2m', or a Solver that asks once a step; grid: where
        the steps lie, such as 'beta' or 'logsnr' (None: where the scheduler of the pipeline puts them)."""
        wrapped = scheduler.wrapped if isinstance(scheduler, cls) else scheduler
        return cls(wrapped, catalog.build("solvers", solver), Terms.of(scheduler), grid)

    def __deepcopy__(self, memo: dict) -> OrnsteinScheduler:
        return type(self)(copy.deepcopy(self.wrapped, memo), self.solver, self.terms, self.grid)

    def _try(self) -> None:
        """Three steps on zeros: refuses a solver of several calls before a pipeline is under way."""
        x, times = torch.zeros(1, 1, 2, 2), torch.linspace(self.terms.process.t_max * 0.9, 0.1, 4)
        memory = self.solver.start(x, NoiseSource.of(0, (0,)))
        for t, s in zip(times, times[1:]):
            once = _Once(x, t, self._says(torch.zeros_like(x)))
            x, memory = self.solver.step(once, self.terms.process, x, t, s, memory)

    def _says(self, value: Tensor) -> Callable[[Tensor, Tensor], Prediction]:
        process = self.terms.process
        return lambda x, t: Prediction(x, process.at(t, x), self.terms.predicts, value)

    @property
    def _now(self) -> _Progress:
        if not hasattr(self._here, "progress"):
            raise OrnsteinError("the scheduler has no timesteps on this thread", "Call set_timesteps(steps) first.")
        return self._here.progress

    @property
    def timesteps(self) -> Tensor:
        return self._now.timesteps

    @property
    def sigmas(self) -> Tensor:
        return self._now.times

    @property
    def num_inference_steps(self) -> int:
        return len(self._now.timesteps)

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, timesteps: Any = None,
                      sigmas: Any = None, mu: float | None = None) -> None:  # fmt: skip
        """Choose the timesteps as the wrapped scheduler does; the other arguments are its own, where it has them."""
        chooser = copy.deepcopy(self.wrapped)
        given = {"num_inference_steps": num_inference_steps, "device": device, "timesteps": timesteps, "sigmas": sigmas,
                 "mu": mu}  # fmt: skip
        known = inspect.signature(chooser.set_timesteps).parameters
        given = {k: v for k, v in given.items() if v is not None}
        for name in given:
            if name not in known:
                raise unknown(f"argument of {type(chooser).__name__}.set_timesteps", name, known)
        chooser.set_timesteps(**given)
        # schedulers of second order list each twice; PNDM adds half steps, and has its plain list under `_timesteps`
        listed = chooser.timesteps
        plain = torch.tensor(getattr(chooser, "_timesteps", listed.tolist()), device=listed.device)
        steps = plain.to(listed.dtype).unique().flip(0)
        if self.grid is not None:
            times = grid(self.terms.process, len(steps), self.grid)
            steps = self.terms.timestep(times[:-1])
            if not isinstance(self.terms.process, Flow):  # whole, as in training; each once, where there are too many
                steps = steps.round().clamp(min=0).unique().flip(0)
                times = torch.cat([self.terms.time(steps), times[-1:]])
            steps = steps.to(listed.device, torch.float32)
            self._here.progress = _Progress(times, steps, steps.tolist())
            return
        if isinstance(self.terms.process, Flow):
            times = chooser.sigmas.to(torch.float64).unique().flip(0)[: len(steps)]
            end = 0.0
        else:
            times = self.terms.time(steps.to(torch.float64))
            end = 0.0 if self.config.get("set_alpha_to_one", True) else 1 / self.terms.count
        times = torch.cat([times, times.new_full((1,), end if end < times[-1] else 0.0)]).cpu()
        self._here.progress = _Progress(times, steps, steps.tolist())

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The step to begin with (pictures from pictures begin late)."""
        self._now.index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None,
             return_dict: bool = True) -> Stepped | tuple[Tensor]:  # fmt: skip
        """One step from `timestep` to the next. model_output, sample: [B, ...]; generator: one, or one per sample."""
        now = self._now
        told = float(torch.as_tensor(timestep).reshape(-1)[0])
        if now.index is None or now.index >= len(now.listed) or now.listed[now.index] != told:
            if told not in now.listed:
                raise OrnsteinError(f"timestep {told:g} is not of this run", "Take them from scheduler.timesteps.")
            now.index, now.memory = now.listed.index(told), None
        if model_output.shape != sample.shape:
            model_output = model_output[:, : sample.shape[1]]  # the rest is a learned variance
        x, value = sample.float(), model_output.float()
        if now.memory is None:
            now.memory = (self.solver.start(x, _source(generator, len(x))),)
        t, s = now.times[now.index], now.times[now.index + 1]
        x, memory = self.solver.step(_Once(x, t, self._says(value)), self.terms.process, x, t, s, now.memory[0])
        now.memory, now.index = (memory,), now.index + 1
        x = x.to(sample.dtype)
        return Stepped(x) if return_dict else (x,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """x_t of clean samples at timesteps [] or [B]."""
        t = self.terms.time(torch.as_tensor(timesteps, device=original_samples.device).double())
        t = t.expand(len(original_samples)) if t.numel() == 1 else t
        return self.terms.process.corrupt(original_samples, noise, t.to(torch.float32)).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """add_noise by the name that flow schedulers have."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return self.terms.count


def _source(generator: Any, batch: int) -> NoiseSource:
    """Streams from the pipeline's generator(s), which move on by one draw."""
    if isinstance(generator, (list, tuple)):
        seeds = [_seed(g) for g in generator]
        return NoiseSource.of((seeds * -(-batch // len(seeds)))[:batch], [0] * batch)
    return NoiseSource.of(_seed(generator), range(batch))


def _seed(generator: torch.Generator | None) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device if generator else "cpu"))
