"""The times at which steps of first order stray least from a model's own trajectories, by dynamic programming.

GITS: On the Trajectory Regularity of ODE-based Diffusion Sampling, Chen, Zhou, Wang, Shen, Lyu, 2024, arXiv:2405.11326
(section 4, geometry-inspired time scheduling). Along a finely solved trajectory xbar_0, ..., xbar_N the cost of a step is
c_ij = E|xbar_i + (sigma_j - sigma_i) noise_i - xbar_j|, xbar = x/a, sigma = s/a; the grid of n steps minimises the sum of
its costs, each later one counted gamma times the one before: V_n(i) = min_j c_ij + gamma V_{n-1}(j).
Costs nothing here; `calibrate` costs N network calls for a batch, once per model, for every number of steps.

Without a path: the optimum for Gaussian data of standard deviation d in the limit of many steps. There xbar grows as r =
sqrt(sigma^2 + d^2); a step of h errs by h^2 r''/2, of which d/r is left at the data, and the sum is least where h^2 r''/r =
(h d/r^2)^2 is the same for all: equal steps of arctan(sigma/d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, Solver, sample
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process

from .layers.ladder import HUGE

__all__ = ["Optimal", "calibrate"]

KIND = "optimal_grid"


@dataclass(frozen=True)
class Optimal:
    """A path to, or the result of, `calibrate`; or the optimum for Gaussian data."""

    path: Artefact | str | None = None
    sigma_data: float = 0.5  # d, standard deviation of the data, where there is no path; EDM's default
    gamma: float = 1.15  # weight of a later step's cost over an earlier one's (the paper's)

    def __call__(self, process: Process, steps: int) -> Tensor:
        """steps + 1 times from t_max to 0, float64."""
        if self.path is None:
            return _gaussian(process, steps, self.sigma_data)
        found = self.path if isinstance(self.path, Artefact) else Artefact.load(self.path, KIND)
        found.check(process=process)
        times, cost = (found.arrays[k].double() for k in ("times", "cost"))
        if steps >= len(times):
            what = f"steps={steps} with an optimal grid measured on {len(times) - 1} steps"
            raise OrnsteinError(what, f"Ask for at most {len(times) - 1}, or calibrate with a finer one.")
        return times[_shortest(cost, steps, self.gamma)]


def _gaussian(process: Process, steps: int, sigma_data: float) -> Tensor:
    """Even steps of arctan(sigma/d) from the prior's sigma to 0."""
    a, s, *_ = process.coefficients(torch.tensor(process.t_max, dtype=torch.float64))
    widest = math.atan2(float(s), float(a) * sigma_data)
    sigma = sigma_data * (torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:-1] * widest).tan()
    inner = process.time(-2 * sigma.clamp(max=HUGE).log())
    return torch.cat([inner.new_tensor([process.t_max]), inner, inner.new_zeros(1)])


def _shortest(cost: Tensor, steps: int, gamma: float) -> list[int]:
    """The `steps` + 1 indices from 0 to the last, rising, of the least total; cost [N + 1, N + 1], of a step i -> j."""
    n = len(cost) - 1
    cost = torch.where(torch.ones_like(cost).triu(1) > 0, cost, math.inf)
    value, choices = cost[:, n], []
    for _ in range(steps - 1):
        value, choice = (cost + gamma * value).min(1)
        choices.insert(0, choice)
    path = [0]
    for choice in choices:
        path.append(int(choice[path[-1]]))
    return [*path, n]


class _Watch(Controller):
    """Keeps the first answer of every step: state, data and noise as said there."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_prediction(self, clock: Clock, x: Tensor, prediction: Prediction) -> Prediction:
        if clock.evaluation == 0:
            self.seen.append((x, prediction.x0, prediction.noise))
        return prediction


def calibrate(denoiser: Denoises, noise: Any, solver: Solver, fine: int = 60, *, cond: Any = None, rule: Any = None,
              seed: int = 0) -> Artefact:  # fmt: skip
    """What a step from each to each of `fine` + 1 times costs.

    noise: shape [B, ...] or start, as for `sample`; solver: of the fine trajectory; rule: its grid (None: `Optimal()`).
    """
    rule = Optimal() if rule is None else rule
    watch, process = _Watch(), denoiser.process
    end = sample(denoiser, noise, solver, fine, cond=cond, rule=rule, seed=seed, controllers=[watch])
    times = rule(process, fine) if callable(rule) else torch.as_tensor(rule, dtype=torch.float64)
    levels = [process.at(t, end) for t in times.tolist()]
    states = [x for x, *_ in watch.seen] + [end]
    cost = torch.full((len(times), len(times)), math.inf, dtype=torch.float64)
    for i, (_, x0, said) in enumerate(watch.seen):
        for j in range(i + 1, len(times)):
            gap = (levels[j].a * x0 + levels[j].s * said - states[j]) / levels[j].a
            cost[i, j] = gap.flatten(1).norm(dim=1).mean()
    made_for = describe(denoiser, shape=end.shape[1:])
    return Artefact(KIND, {"times": times, "cost": cost}, {"samples": len(end)}, made_for)
