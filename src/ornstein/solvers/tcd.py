"""TCD sampling: a jump along the trajectory to a time below the one asked for, and noise back up to it.

Trajectory Consistency Distillation, Zheng, Hu, Fan, Wang, Ding, Tao, Cham, 2024, arXiv:2402.19159 (strategic stochastic
sampling): s' = (1 - gamma) s, x_s' = a_s' x0 + s_s' noise, x_s = a_s/a_s' x_s' + sqrt(s_s^2 - (a_s/a_s')^2
s_s'^2) xi. gamma = 0 is DDIM, gamma = 1 is LCM's sampling. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.stochastic import renew, split, weights

__all__ = ["TCD"]


def _rule(levels: tuple[Levels, ...]) -> tuple[Tensor, ...]:
    now, to, below = levels
    return split(now, to, to.a * below.sigma)


@dataclass(frozen=True)
class TCD:
    """For networks taught to jump along the trajectory; their scalings at the data are their own affair. With gamma > 0 a
    plain denoiser's long jump stays as wrong however many steps there are: weak order 0."""

    gamma: float = 0.3  # of the paper: 0 deterministic (order 1), 1 nothing of the old noise is kept

    weak_order = 0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise OrnsteinError(f"gamma={self.gamma} is not in [0, 1]", "0 is deterministic, 1 keeps no noise.")

    @property
    def order(self) -> int:
        return 1 if self.gamma == 0 else 0

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        old, data, fresh = weights(_rule, process, x, (t, s, s * (1 - self.gamma)))
        return renew(old * x + data * denoise(x, t).x0, fresh, memory)
