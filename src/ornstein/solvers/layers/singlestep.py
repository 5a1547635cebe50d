"""One engine for singlestep solvers: the nodes of a step are asked in turn, and their answers weighed.

With f_0 the answer at the start and f_j the one at node j, every stage and the end of the step are
x_i = move(x, f_0 -> node i) + sum_{j=1}^{i-1} W_ij (f_j - f_0): the step of first order, and what corrects it. A rule says
where the nodes lie and what W is; it is a pure function of the two times, remembered where these are scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process, remembered

__all__ = ["Plan", "Rule", "advance", "ddim", "nodes_at", "step", "straight"]


@dataclass(frozen=True)
class Plan:
    """One step laid out. A row that takes the step of first order has W = 0, and asks again where it is."""

    nodes: tuple[Levels, ...]  # the inner ones
    asks: tuple[Tensor, ...]  # their times in the shape of the step's own
    weights: tuple[tuple[Tensor | float, ...], ...]  # one row per node and one for the end: W_ij of j = 1, 2, ...
    end: Levels


class Rule(Protocol):
    """A frozen dataclass that lays out a step. `shape`: of the times, [] or [B]."""

    def plan(self, process: Process, now: Levels, to: Levels, shape: torch.Size) -> Plan: ...


def straight(x: Tensor, first: Prediction, now: Levels, node: Levels) -> Tensor:
    """Euler's step in the process's own time."""
    return x + (node.t - now.t) * first.velocity


def ddim(x: Tensor, first: Prediction, now: Levels, node: Levels) -> Tensor:
    """DDIM's step: the exponential integrator of first order; finite from pure noise and to the data."""
    return node.a * first.x0 + node.s * first.noise


def advance(denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor, rule: Rule, kind: str,
            move: Callable[[Tensor, Prediction, Levels, Levels], Tensor]) -> Tensor:  # fmt: skip
    """x [B, ...] from t to s (each [] or [B]) by a rule; `kind` of prediction is f."""
    now, plan = process.at(t, x), step(process, x, t, s, rule)
    first = denoise(x, t)
    start, gaps = first.get(kind), []
    for node, ask, weights in zip(plan.nodes, plan.asks, plan.weights):
        gaps.append(denoise(_weigh(move(x, first, now, node), weights, gaps), ask).get(kind) - start)
    return _weigh(move(x, first, now, plan.end), plan.weights[-1], gaps)


def _weigh(y: Tensor, weights: Sequence[Tensor | float], gaps: Sequence[Tensor]) -> Tensor:
    for weight, gap in zip(weights, gaps):
        if isinstance(weight, Tensor) or weight:
            y = y + weight * gap
    return y


def step(process: Process, x: Tensor, t: Tensor, s: Tensor, rule: Rule) -> Plan:
    """The plan of one step."""
    t, s = torch.as_tensor(t), torch.as_tensor(s)
    if t.ndim == s.ndim == 0:
        return _plan(process, rule, float(t), float(s))
    shape = torch.broadcast_shapes(t.shape, s.shape)
    return rule.plan(process, process.at(t.expand(shape), x), process.at(s.expand(shape), x), shape)


def _scalar(process: Process, rule: Rule, t: float, s: float) -> Plan:
    like = torch.empty((), dtype=torch.float64)
    return rule.plan(process, process.at(t, like), process.at(s, like), torch.Size())


_plan = remembered(_scalar)


def nodes_at(process: Process, now: Levels, times: Sequence[Tensor], whole: Tensor,
             shape: torch.Size) -> tuple[tuple[Levels, ...], tuple[Tensor, ...]]:  # fmt: skip
    """The levels at the nodes and the times to ask at; rows that are not `whole` ask again where they are."""
    times = [torch.where(whole, v, now.t) for v in times]
    nodes = tuple(Levels(v, *process.coefficients(v)) for v in times)
    return nodes, tuple(v.reshape(shape) if v.numel() == shape.numel() else v for v in times)
