"""Trajectory error: how far two runs of the same seeds are apart along the way, step by step and on average.

No first paper: the relative Euclidean error of every step's tensor, as caches, skips and quantisers are commonly judged by
the distance of their trajectory from the full one:

    e_ik = |g_ik - r_ik| / |r_ik|  of sample i at step k,    reported: the mean over k, then over i

Record both runs with `ornstein.metrics.layers.recorder.Recorder`: the estimates of the data ('x0', one a step, whose
errors are told apart early) or the states ('x', whose lengths are those of the noise at first). `per_step` gives the curve
with an interval at each step: where an error comes in, and whether it heals. Cost: the tensors of all steps in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, check_tensors, paired

__all__ = ["TrajectoryError", "by_step"]


@dataclass(frozen=True)
class TrajectoryError:
    """Relative error of paired trajectories [N, T, ...], mean over the T steps; 0 for identical ones."""

    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure without unit, lower is better; n: pairs of trajectories. again: the reference run's with other seeds."""
        check_trajectories(generated, reference)
        return paired(lambda g, r: by_step(g, r).mean(1), generated, reference, again, name="trajectory-error",
                      better="lower", rounds=self.rounds, seed=self.seed)  # fmt: skip

    def per_step(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> list[Measure]:
        """A Measure for each of the T steps, named after it: 'trajectory-error@3'."""
        check_trajectories(generated, reference)
        return [paired(lambda g, r, k=k: by_step(g[:, k : k + 1], r[:, k : k + 1])[:, 0], generated, reference, again,
                       name=f"trajectory-error@{k}", better="lower", rounds=self.rounds, seed=self.seed)
                for k in range(generated.shape[1])]  # fmt: skip


def check_trajectories(generated: Tensor, reference: Tensor) -> None:
    """Raise unless both are [N, T, ...] of one shape; another number of steps has no steps to compare with."""
    check_tensors(generated, reference)
    if generated.ndim < 3:
        raise OrnsteinError(f"trajectories have shape {list(generated.shape)}", "Give [N, T, ...], as Recorder.read does.")


def by_step(generated: Tensor, reference: Tensor) -> Tensor:
    """|g - r| / |r| of [N, T, ...] at each step, [N, T], float64; 0 / 0 is 0, any error of a zero reference raises."""
    g, r = (v.detach().double().flatten(2) for v in (generated, reference))
    gap, length = torch.linalg.vector_norm(g - r, dim=2), torch.linalg.vector_norm(r, dim=2)
    if bool(((length == 0) & (gap > 0)).any()):
        raise OrnsteinError("a step of a reference trajectory is all zeros", "A relative error needs a length.")
    return gap / length.where(length > 0, torch.ones_like(length))
