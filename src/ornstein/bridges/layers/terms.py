"""What a foreign scheduler says of the model that was trained with it: process, prediction, count of its timesteps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.process import Levels, Process
from ornstein.processes.flow import Flow

__all__ = ["PREDICTS", "UNIT_TIME", "SchedulerProcess", "Terms"]

# Networks that multiply the time by 1000 themselves and are told t in [0, 1].
UNIT_TIME = ("FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel",
             "ChromaTransformer2DModel", "BriaFiboTransformer2DModel", "LongCatImageTransformer2DModel",
             "OvisImageTransformer2DModel")  # fmt: skip
PREDICTS = {"epsilon": "noise", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}


@dataclass(frozen=True, eq=False)
class SchedulerProcess(Process):
    """x_t = cos(angle) x_0 + sin(angle) noise through the points of a discrete schedule of N betas.

    t = (k + 1)/N at the network's timestep k, where the angle is exactly that of the schedule; t = 0 is the data; the
    angle is linear in between.
    """

    angles: Tensor  # [N + 1] float64, rising from 0
    t_max: float = 1.0

    @classmethod
    def of(cls, alphas_cumprod: Tensor) -> SchedulerProcess:
        """From the cumulative products of 1 - beta, [N]."""
        alpha = alphas_cumprod.detach().double().cpu()
        return cls(torch.cat([torch.zeros(1, dtype=torch.float64), torch.atan2((1 - alpha).sqrt(), alpha.sqrt())]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SchedulerProcess) and torch.equal(self.angles, other.angles)

    def __hash__(self) -> int:
        return hash((self.count, float(self.angles[-1])))

    @property
    def t_min(self) -> float:
        return 1 / self.count

    @property
    def count(self) -> int:
        """N, the number of training timesteps."""
        return len(self.angles) - 1

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        place = t.double() * self.count
        angles = self.angles.to(t.device)
        low = place.floor().clamp(0, self.count - 1)
        below, above = angles[low.long()], angles[low.long() + 1]
        angle, slope = below + (place - low) * (above - below), (above - below) * self.count
        return tuple(c.to(t.dtype) for c in (angle.cos(), angle.sin(), -slope * angle.sin(), slope * angle.cos()))

    def time(self, logsnr: Tensor) -> Tensor:
        angle, angles = torch.atan(torch.exp(-logsnr.double() / 2)), self.angles.to(logsnr.device)
        low = (torch.searchsorted(angles, angle.contiguous(), right=True) - 1).clamp(0, self.count - 1)
        place = low + (angle - angles[low]) / (angles[low + 1] - angles[low])
        return (place / self.count).clamp(max=self.t_max).to(logsnr.dtype)


@dataclass(frozen=True)
class Terms:
    """What a scheduler says of the model: its process, what it predicts, and how its timesteps count."""

    process: Process
    predicts: str
    count: int  # timesteps of the training schedule, N

    @classmethod
    def of(cls, scheduler: Any) -> Terms:
        if isinstance(getattr(scheduler, "terms", None), cls):  # one of ours
            return scheduler.terms
        if isinstance(scheduler, Process):
            predicts = "velocity" if isinstance(scheduler, Flow) else "noise"
            return cls(scheduler, predicts, getattr(scheduler, "count", 1000))
        config, kind = dict(getattr(scheduler, "config", {})), type(scheduler).__name__
        said = config.get("prediction_type")
        count = int(config.get("num_train_timesteps", 1000))
        if "Flow" in kind or config.get("use_flow_sigmas") or said == "flow_prediction":
            return cls(Flow(), "velocity", count)
        if not isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
            raise OrnsteinError(f"{kind} has neither betas nor a flow", "Give the scheduler of the model's training.")
        for key in ("clip_sample", "thresholding"):
            if config.get(key):
                what = f"{kind}({key}=True) clips what the network says; ornstein's solvers do not, so pictures can differ"
                warnings.warn(f"{what}. Set {key}=False to compare.", stacklevel=2)
        if said not in PREDICTS:
            raise unknown(f"prediction type of {kind}", str(said), PREDICTS)
        return cls(SchedulerProcess.of(scheduler.alphas_cumprod), PREDICTS[said], count)

    def timestep(self, t: Tensor | float) -> Tensor | float:
        """Process time -> the scheduler's own timestep."""
        return t * self.count - (1 if isinstance(self.process, SchedulerProcess) else 0)

    def time(self, timestep: Tensor | float) -> Tensor | float:
        """The scheduler's timestep -> process time."""
        return (timestep + (1 if isinstance(self.process, SchedulerProcess) else 0)) / self.count

    def told(self, model: nn.Module) -> Callable[[Levels], Tensor]:
        """What this network is told: whole timesteps of a schedule of betas, or the flow's time in its unit."""
        if isinstance(self.process, SchedulerProcess):
            return lambda L: self.timestep(L.t).round().clamp(0, self.count - 1)
        unit = self.unit(model)
        return lambda L: self.timestep(L.t) * unit

    def unit(self, model: nn.Module) -> float:
        """What the network is told per timestep of the scheduler."""
        if not isinstance(self.process, Flow):
            return 1.0
        scale = getattr(getattr(model, "config", None), "timestep_scale", None) or 1
        return float(scale) / (self.count if type(model).__name__ in UNIT_TIME else 1)
