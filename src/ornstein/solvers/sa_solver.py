"""SA-Solver: stochastic Adams predictor and corrector on the reverse SDE whose noise tau may change on the way.

SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models, Xue, Yi, Luo, Zhang, Sun, Li, Ma, 2023,
arXiv:2309.05019: x_s = (s_s/s_t) e^(-tau^2 h) x_t + a_s sum_i b_i x0_i + s_s sqrt(1 - e^(-2 tau^2 h)) xi,
where sum b_i x0_i = (1 + tau^2) integral_0^h e^(-(1+tau^2)(h-u)) P(u) du and P goes through earlier x0 (predictor), or
through the one at s as well (corrector, same xi). Costs one network call per step and a few remembered x0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.stochastic import adams, decayed, renew, split, weights

__all__ = ["SASolver"]


def _tau(now: Levels, tau: float | Callable, low: float, high: float) -> Tensor:
    """tau^2 over the step that starts at `now`."""
    found = torch.as_tensor(tau(now.sigma) if callable(tau) else tau, dtype=now.s.dtype)
    return torch.where((now.sigma >= low) & (now.sigma <= high), found, 0.0) ** 2


def _predict(levels: tuple[Levels, ...], first: str, *tau: Any) -> tuple[Tensor, ...]:
    """Weights of fresh noise, x_t, x0 now, x0 before, ... for levels now, to, before, ..."""
    now, to, *before = levels
    eta = _tau(now, *tau)
    old, _, fresh = split(now, to, decayed(now, to, eta))
    h = (to.logsnr - now.logsnr) / 2
    nodes = (torch.zeros_like(h), *((b.logsnr - now.logsnr) / 2 for b in before))
    return fresh, old, *(to.a * w for w in adams(h, 1 + eta, nodes, first))


def _correct(levels: tuple[Levels, ...], predicted: int, corrected: int, first: str, *tau: Any) -> tuple[Tensor, ...]:
    """Corrector's weights less predictor's, of x0 at s, at t and before, for levels at s, t, before, ..."""
    to, now, *before = levels
    eta = _tau(now, *tau)
    h = (to.logsnr - now.logsnr) / 2
    nodes = (h, *((b.logsnr - now.logsnr) / 2 for b in (now, *before)))[: max(corrected, predicted + 1)]
    nodes = (h, torch.zeros_like(h), *nodes[2:])
    plain = adams(h, 1 + eta, nodes[1 : predicted + 1], first)
    better = adams(h, 1 + eta, nodes[:corrected], first)
    better += [torch.zeros_like(h)] * (len(nodes) - len(better))
    change = [better[0], *(b - p for b, p in zip(better[1:], plain + [0.0] * (len(nodes) - 1 - len(plain))))]
    return tuple(torch.where(torch.isfinite(h), to.a * c, 0.0) for c in change)


@dataclass(frozen=True)
class SASolver:
    """tau = 0 is an ODE solver with a corrector, tau = 1 the reverse SDE."""

    tau: float | Callable[[Tensor], Tensor] = 1.0  # constant, or a pure elementwise function of sigma = s/a
    low: float = 0.0  # sigma = s/a from which on there is noise, such as 0.05
    high: float = float("inf")  # and up to which, such as 1
    predictor: int = 2  # number of x0 that the predictor uses, 1 to 3
    corrector: int = 2  # and the corrector, 0 (none) to 3
    taylor: bool = False  # on two nodes, the leading term of the slope's weight, as released for few steps

    def __post_init__(self) -> None:
        if self.predictor not in (1, 2, 3) or self.corrector not in (0, 1, 2, 3):
            what = f"predictor={self.predictor}, corrector={self.corrector}"
            raise OrnsteinError(what, "Give 1 to 3 for the predictor, 0 to 3 for the corrector.")

    @property
    def order(self) -> int:
        return 0 if callable(self.tau) or self.tau else self._global

    @property
    def weak_order(self) -> int:
        return min(self._global, 2)

    @property
    def _global(self) -> int:
        """The predictor's first step has one node; the corrector builds on what the predictor reached."""
        return min(self.corrector, self.predictor + 1) if self.corrector else min(self.predictor, 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0, "before": ()}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        x0, before = denoise(x, t).x0, memory["before"]
        first, tau = "taylor" if self.taylor else "exact", (self.tau, self.low, self.high)
        if before and self.corrector:  # what the last step would have been, had it known x0 at its end
            said = ((t, x0), *before)[: max(self.corrector, self.predictor + 1)]
            predicted = min(self.predictor, len(before))
            times = tuple(time for time, _ in said)
            change = weights(_correct, process, x, times, predicted, min(self.corrector, len(said)), first, *tau)
            for w, (_, value) in zip(change, said, strict=True):
                x = x + w * value
        said = ((t, x0), *before)[: self.predictor]
        fresh, old, *new = weights(_predict, process, x, (t, s, *(time for time, _ in said[1:])), first, *tau)
        x = old * x
        for w, (_, value) in zip(new, said, strict=True):
            x = x + w * value
        x, memory = renew(x, fresh, memory)
        return x, memory | {"before": ((t, x0), *before)[: max(self.predictor, self.corrector - 1)]}
