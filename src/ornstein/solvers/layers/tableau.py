"""Explicit Runge-Kutta tableaux, in the process's own time or in rho = s/a.

A step h from t to s: k_i = f(x + h sum_j a_ij k_j, t + c_i h), x_s = x + h sum_i b_i k_i. Since the rows of a sum to c and b
sums to 1, only the columns from the second on are kept, as weights of k_j - k_1. Where a step ends at the data no network
can be asked at its end; tableaux that would do so close with one of an order lower that does not, and one step of an order
lower leaves the global order as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import unknown
from ornstein.core.process import Levels, Process

from .singlestep import Plan, nodes_at

__all__ = ["TABLEAUX", "ButcherRule", "Tableau", "tableau"]


@dataclass(frozen=True)
class Tableau:
    """c, rows of a and b without the first stage; `closing`: the tableau of the step to the data ('' is Euler's)."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    closing: str


TABLEAUX = {
    "midpoint": Tableau(2, (1 / 2,), ((),), (1.0,), "midpoint"),
    "heun": Tableau(2, (1.0,), ((),), (1 / 2,), ""),
    "ralston": Tableau(2, (2 / 3,), ((),), (3 / 4,), "ralston"),  # Ralston 1962: the least error bound of order 2
    "heun3": Tableau(3, (1 / 3, 2 / 3), ((), (2 / 3,)), (0.0, 3 / 4), "heun3"),  # Heun 1900
    "kutta3": Tableau(3, (1 / 2, 1.0), ((), (2.0,)), (2 / 3, 1 / 6), "midpoint"),  # Kutta 1901
    "rk4": Tableau(4, (1 / 2, 1 / 2, 1.0), ((), (1 / 2,), (0.0, 1.0)), (1 / 3, 1 / 3, 1 / 6), "heun3"),
}


def tableau(part: str, name: str) -> Tableau:
    """A tableau by name."""
    if name not in TABLEAUX:
        raise unknown(f"method of {part}", name, TABLEAUX)
    return TABLEAUX[name]


@dataclass(frozen=True)
class ButcherRule:
    """A tableau's step in 't' or in 'rho'. A step that would ask below t_min on its way to the data is of first order."""

    method: str
    variable: str  # 't' or 'rho'

    def plan(self, process: Process, now: Levels, to: Levels, shape: torch.Size) -> Plan:
        table, last = TABLEAUX[self.method], to.s == 0
        whole = torch.isfinite(now.sigma) if self.variable == "rho" else torch.ones_like(last)
        if not table.closing:
            whole = whole & ~last
        closing = TABLEAUX.get(table.closing, table)
        if last.ndim == 0:
            c, a, b = _entries(closing if bool(last) else table)
        else:
            c, a, b = _blend(table, closing, last, now.t)
        times = [self._time(process, now, to, v) for v in c]
        for time in times:
            whole = whole & ~(last & (time < process.t_min))
        if last.ndim == 0 and not bool(whole):
            return Plan((), (), ((),), to)
        nodes, asks = nodes_at(process, now, times, whole, shape)
        length = torch.where(whole, (to.t - now.t) if self.variable == "t" else (to.sigma - now.sigma), 0 * now.t)
        scale = [length * (n.a if self.variable == "rho" else 1) for n in (*nodes, to)]
        weights = tuple(tuple(h * w if isinstance(w, Tensor) or w else 0.0 for w in row)
                        for h, row in zip(scale, (*a, b)))  # fmt: skip
        return Plan(nodes, asks, weights, to)

    def _time(self, process: Process, now: Levels, to: Levels, c: Tensor | float) -> Tensor:
        if self.variable == "t":
            return torch.lerp(now.t, to.t, c)  # exactly s where c is 1
        sigma = now.sigma + c * (to.sigma - now.sigma)
        end = sigma <= to.sigma * (1 + 1e-12)  # c = 1: the given time itself
        return torch.where(end, to.t, process.time(-2 * torch.where(end, torch.ones_like(sigma), sigma).log()))


def _entries(table: Tableau) -> tuple:
    return table.c, table.a, table.b


def _blend(table: Tableau, closing: Tableau, last: Tensor, like: Tensor) -> tuple:
    """The entries per row: the closing tableau's, with idle stages to make up the number, where `last`."""
    n = len(table.c)
    idle = n - len(closing.c)
    c = closing.c + closing.c[-1:] * idle
    a, b = (*closing.a, *((0.0,) * k for k in range(n - idle, n))), closing.b + (0.0,) * idle

    def entry(yes: float, no: float) -> Tensor:
        return torch.where(last, like.new_tensor(yes), like.new_tensor(no))

    rows = tuple(tuple(map(entry, (*r, *(0.0,) * (len(q) - len(r))), q)) for r, q in zip(a, table.a))
    return tuple(map(entry, c, table.c)), rows, tuple(map(entry, b, table.b))
