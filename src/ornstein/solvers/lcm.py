"""LCM sampling: jump to the data, put fresh noise on, jump again; for networks that were taught to jump.

Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference, Luo, Tan, Huang, Li, Zhao, 2023,
arXiv:2310.04378; the multistep sampling of Consistency Models, Song et al., 2023, arXiv:2303.01469 (algorithm 1):
x_s = a_s f(x_t, t) + s_s xi. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.stochastic import renew, split, weights

__all__ = ["LCM"]


def _rule(levels: tuple[Levels, ...]) -> tuple[Tensor, ...]:
    now, to = levels
    return split(now, to, 0 * to.s)  # nothing of the old noise is kept


@dataclass(frozen=True)
class LCM:
    """f is the denoiser's x0: the scalings that make f(x, 0) = x are the network's affair. Given a plain denoiser, whose x0
    is a mean, more steps do not lead to the law of the data: weak order 0."""

    order = 0
    weak_order = 0

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        _, data, fresh = weights(_rule, process, x, (t, s))
        return renew(data * denoise(x, t).x0, fresh, memory)
