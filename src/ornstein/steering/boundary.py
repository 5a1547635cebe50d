"""Optimal boundary condition: of many starts, the one that restores reference pictures best is used for every input.

Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution, Yiyang Ma, Huan Yang, Wenhan
Yang, Jianlong Fu, Jiaying Liu, 2023, arXiv:2305.15357. With h(x_T, y) the end of a deterministic sampler under the
condition y, and references (z_i, y_i):

    x* = argmin_k (1/R) sum_i d(h(x_T^k, y_i), z_i),   x_T^k ~ the prior,

then h(x*, y) for every y: a good start is about as good for all inputs where y determines most of the answer. `fit` costs
K x R runs of the sampler; Boundary costs nothing. All samples of one input are then the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, Solver, State
from ornstein.core.seam import gather

from .layers.search import endings

__all__ = ["Boundary", "fit"]

KIND = "boundary"


def squared(x: Tensor, truth: Tensor) -> Tensor:
    """The mean squared difference of each sample: [M, ...] twice -> [M]."""
    return (x - truth).flatten(1).square().mean(1)


def fit(denoiser: Denoises, truth: Tensor, solver: Solver, steps: int, cond: Any = None, candidates: int = 100,
        distance: Callable[[Tensor, Tensor], Tensor] = squared, rule: str = "uniform", seed: int = 0,
        zero: bool = False) -> Artefact:  # fmt: skip
    """The best of `candidates` starts. truth: references z [R, ...]; cond: their conditions y, rows [R, ...]; distance:
    (x [M, ...], z [M, ...]) -> [M], lower is better; zero: the last candidate is no noise at all. The solver must be
    deterministic.

    arrays: 'noise', unit, of one sample, and 'distances' [K] of all candidates.
    """
    if solver.order == 0:
        raise OrnsteinError("a solver that adds noise has no best start", "Give a deterministic one, such as DDIM.")
    if candidates < 1 or len(truth) < 1:
        raise OrnsteinError(f"{candidates} candidates on {len(truth)} references", "Give at least one of each.")
    count, source = len(truth), NoiseSource.of(seed, range(candidates))
    noise = source.draw(-1, truth.new_empty(candidates, *truth.shape[1:]))
    if zero:
        noise[-1] = 0
    rows = torch.arange(count).repeat(candidates)
    starts = denoiser.process.prior(noise).repeat_interleave(count, 0)
    x = endings(denoiser, starts, solver, steps, gather(cond, rows, count), rule)
    found = distance(x, truth[rows]).double().nan_to_num(nan=torch.inf).reshape(candidates, count).mean(1)
    best = int(found.argmin())
    return Artefact(KIND, {"noise": noise[best], "distances": found}, {"steps": steps, "seed": seed, "chosen": best},
                    describe(denoiser, rule if isinstance(rule, str) else "", truth.shape[1:]))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Boundary(Controller):
    """Every sample starts from the one noise that was found. Without it, it is the plain sampler."""

    noise: Artefact | None = None  # of `fit`

    def __post_init__(self) -> None:
        if self.noise is not None and self.noise.kind != KIND:
            raise OrnsteinError(f"a start of kind '{self.noise.kind}'", f"Give one of '{KIND}', made by fit.")

    def begin(self, state: State) -> State:
        """The start [B, ...], the same for all rows. Found for another process, shape or number of steps: OrnsteinError."""
        if self.noise is None:
            return state
        self.noise.check(process=state.process, shape=state.x.shape[1:])
        if state.steps != self.noise.settings["steps"]:
            raise OrnsteinError(f"the start was found for {self.noise.settings['steps']} steps, not for {state.steps}",
                                "Fit it for these steps.")  # fmt: skip
        x = state.process.prior(self.noise.arrays["noise"].to(state.x)).expand_as(state.x).clone()
        return replace(state, x=x, facts=state.facts | {KIND: {"chosen": self.noise.settings["chosen"]}})
