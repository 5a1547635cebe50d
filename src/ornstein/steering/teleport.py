"""Gaussian teleportation: the first steps at one stroke, by the solution for a Gaussian with the data's mean and spread.

The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its Applications, Binxu Wang,
John J. Vastola, 2024, arXiv:2412.09726 (the solution of the ODE for Gaussian data, and its use to skip 15 to 30 % of
sampling). At high noise a network's score is that of N(mu, U diag(lambda) U^T), whose ODE is solved by formula:

    x_s = a_s mu + U diag(sqrt((a_s^2 lambda + s_s^2) / (a_t^2 lambda + s_t^2))) U^T (x_t - a_t mu)

from the prior's time t to the hand-over s; with a = 1 that is the paper's. Any solver then takes the rest of the grid.
Costs one product with U per sample and no network call; the statistics, one pass over the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.process import Process

__all__ = ["Teleport", "fit", "move"]

KIND = "teleport"


def fit(data: Tensor, rank: int | None = None, labels: Tensor | None = None, diagonal: bool = False) -> Artefact:
    """Mean and spread of data [N, ...] in the model's own space. rank: directions kept (None: all), the rest shares one
    variance; diagonal: one variance per number instead. labels [N]: a mean per label, and the spread within labels."""
    if len(data) < 2 or (rank is not None and rank < 1):
        raise OrnsteinError(f"{len(data)} data at rank {rank} have no spread", "Give two data or more, and rank 1 or more.")
    rows, label = data.flatten(1).double(), torch.zeros(len(data), dtype=torch.long) if labels is None else labels.cpu()
    share = torch.nn.functional.one_hot(label).double().to(rows)
    if not bool(share.sum(0).all()):
        raise OrnsteinError("a label has no data", "Number the labels from 0 without a gap.")
    means = (share.T @ rows) / share.sum(0)[:, None]
    gap = rows - means[label]
    arrays = {"mean": means.reshape(-1, *data.shape[1:])}
    if diagonal:
        arrays["variances"] = gap.square().mean(0)
    else:
        _, scale, way = torch.linalg.svd(gap, full_matrices=False)
        kept = min(rank or len(scale), len(scale))
        spread, left = scale**2 / len(rows), rows.shape[1] - kept
        arrays |= {"basis": way[:kept].T.contiguous(), "variances": spread[:kept],
                   "rest": spread[kept:].sum() / max(left, 1)}  # fmt: skip
    made = {"shape": "x".join(map(str, data.shape[1:]))}
    return Artefact(KIND, arrays, {"labelled": labels is not None, "data": len(rows)}, made)


def move(statistics: Artefact, process: Process, x: Tensor, t: Tensor | float, s: Tensor | float,
         label: Tensor | None = None) -> Tensor:  # fmt: skip
    """x [B, ...] at time t, carried to time s by the ODE of the Gaussian. label: int [B] where there are means per label."""
    one = {k: v.to(x.device) for k, v in statistics.arrays.items()}
    mean = one["mean"].expand(len(x), *x.shape[1:]) if label is None else one["mean"][label.to(x.device)]
    start, end = (process.at(v, x.double()) for v in (t, s))

    def stretch(variance: Tensor) -> Tensor:
        return ((end.a**2 * variance + end.s**2) / (start.a**2 * variance + start.s**2)).sqrt()

    gap = (x.double() - start.a * mean).flatten(1)
    if "basis" in one:
        rest = stretch(one["rest"])
        along = gap @ one["basis"]
        gap = rest * gap + (along * (stretch(one["variances"]) - rest)) @ one["basis"].T
    else:
        gap = gap * stretch(one["variances"])
    return (end.a * mean + gap.reshape(x.shape)).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Teleport(Controller):
    """Leaves out the first `skip` steps of the run's grid. With skip = 0 it carries the sample to where a grid starts that
    starts below the prior, and does nothing on any other. Without statistics it is the plain sampler."""

    statistics: Artefact | None = None  # of `fit`
    skip: int = 0  # steps of the run's grid that are left out

    def __post_init__(self) -> None:
        if self.skip < 0 or (self.statistics is None and self.skip):
            raise OrnsteinError(f"skip={self.skip} needs statistics, and is 0 or more", "Give Teleport(fit(data), skip).")
        if self.statistics is not None and self.statistics.kind != KIND:
            raise OrnsteinError(f"statistics of kind '{self.statistics.kind}'", f"Give those of '{KIND}', made by fit.")

    def begin(self, state: State) -> State:
        """The state at the hand-over."""
        if self.statistics is None:
            return state
        process, label = state.process, None
        if self.skip >= state.steps:
            raise OrnsteinError(f"skip={self.skip} leaves nothing of {state.steps} steps", "Leave out fewer.")
        to = float(state.times[self.skip])
        if to >= process.t_max:
            return state
        self.statistics.check(shape=state.x.shape[1:])
        if self.statistics.settings["labelled"]:
            label, means = (state.cond or {}).get("label"), len(self.statistics.arrays["mean"])
            if label is None or bool((label < 0).any() | (label >= means).any()):
                raise OrnsteinError(f"the statistics are of {means} labels", "Give cond={'label': ...} within them.")
        x = move(self.statistics, process, state.x, process.t_max, to, label)
        return replace(state, x=x, step=self.skip, facts=state.facts | {KIND: {"to": to, "skip": self.skip}})
