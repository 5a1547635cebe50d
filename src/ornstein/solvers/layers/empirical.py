"""One multistep step under a linear re-parametrisation of the network that changes with lambda and with the coordinate.

In xbar = x/a, lambda = log(a/s) every Gaussian process reads d xbar/d lambda = x0 - xbar. With a table of l, s, b (each a
function of lambda, per coordinate) and f = xbar - x0 - l xbar, g is what is left of f when its growth exp(int s) and its
drift b are taken out; a polynomial in lambda through g at the nodes is put under the integral:
    x_s = A (x_t - a_t int_t^s E (g + beta) d lambda),  A = (s_s/s_t) exp(-int (l-1)),  E = exp(int_t (l + s)),
    g_j = f_j exp(-int_t^j s) - beta_j,  beta = int_t exp(-int_t s) b.
"""

# budget: two lines over: the table, its reading and the step that it serves are one piece

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from ornstein.core.process import Process

__all__ = ["Style", "Table", "lean", "weights"]

POINTS, SHARES = (torch.from_numpy(v) for v in leggauss(20))  # on [-1, 1]


class Style(NamedTuple):
    pseudo: bool = False  # higher derivatives by backward differences instead of the polynomial through all nodes
    half: bool = False  # where there are two nodes, the slope counts h/2 times the first term, as in DPM-Solver++(2M)


@dataclass(frozen=True, eq=False)
class Table:
    """l - 1, s and b at equal distances of lambda, each float64 [N + 1, ...]; linear in between, none of it outside."""

    low: float
    high: float
    less: Tensor  # l - 1: 0 is the prediction of x0, -1 that of the noise
    s: Tensor
    b: Tensor

    @classmethod
    def constant(cls, l: float = 1.0, s: float = 0.0) -> Table:
        """The same for every lambda and coordinate: (1, 0) is DPM-Solver++, (0, -1) DPM-Solver. Up to lambda = 12, so that
        no step is too long for 20 points."""
        return cls(-40.0, 12.0, *(torch.full((2,), v, dtype=torch.float64) for v in (l - 1, s, 0.0)))

    def at(self, values: Tensor, lam: Tensor, whole: bool = False) -> Tensor:
        """values [N + 1, ...] at lam [Q] -> [Q, ...]; whole: their integral from `low` instead."""
        h = (self.high - self.low) / (len(values) - 1)
        i = ((lam - self.low) / h).floor().long().clamp(0, len(values) - 2)
        d = (lam - self.low - i * h).reshape(-1, *[1] * (values.ndim - 1))
        slope = (values[i + 1] - values[i]) / h
        if not whole:
            return values[i] + slope * d
        sums = torch.cat([torch.zeros_like(values[:1]), ((values[1:] + values[:-1]) * (h / 2)).cumsum(0)])
        return sums[i] + values[i] * d + slope * d**2 / 2

    def has(self, lam: float) -> bool:
        return self.low - 1e-9 <= lam <= self.high + 1e-9


@lru_cache(maxsize=1024)
def lean(table: Table, process: Process, t: float, dtype: torch.dtype, device: torch.device) -> Tensor | float:
    """(l - 1)/a at time t [...], 0 outside of the table: f = -x0 - lean x."""
    a, _, lam = _place(process, t)
    return _cast(table.at(table.less, torch.tensor([lam], dtype=torch.float64))[0] / a, dtype, device) if table.has(lam) else 0.0


@lru_cache(maxsize=1024)
def weights(table: Table, process: Process, style: Style, s: float, nodes: tuple[float, ...], dtype: torch.dtype,
            device: torch.device) -> tuple:  # fmt: skip
    """From time nodes[0] to s: the weight of x, the constant, and the weights of f at the nodes; floats or [...].

    Nodes outside of the table, or that are one with another, end the list. A base outside leaves the step of first order
    in x0. Beyond the table's end the step goes to the end, by first order, and on from there in x0.
    """
    a, b, lam = zip(*(_place(process, t) for t in (s, *nodes)))
    if b[1] <= 0:  # at the data already
        return 1.0, 0.0, 0.0
    if not table.has(lam[1]):
        scale = b[0] / b[1]
        return scale, 0.0, -(a[0] - scale * a[1])
    if lam[0] <= table.high + 1e-9:
        used = [lam[1]]
        for v in lam[2:]:
            if not table.has(v) or min(abs(v - u) for u in used) < 1e-9:
                break
            used.append(v)
        found, _ = _inside(table, style, lam[0], used, b[0] / b[1], a[1])
    else:
        a1, b1, _ = _place(process, float(process.time(torch.tensor(2 * table.high, dtype=torch.float64))))
        (A, K, W), (grow, drift) = _inside(table, style, table.high, [lam[1]], b1 / b[1], a[1])
        ratio, less = b[0] / b1, table.less[-1] / a1
        rest = a[0] - ratio * a1  # of x0 = -f - less x at the table's end
        keep = ratio - rest * less
        found = keep * A, keep * K - rest * grow * drift, keep * W - rest * grow
    return tuple(_cast(w, dtype, device) for w in found)


def _place(process: Process, t: float) -> tuple[float, float, float]:
    """a, s and lambda at a time."""
    a, b, *_ = (float(v) for v in process.coefficients(torch.tensor(t, dtype=torch.float64)))
    return a, b, (math.log(a) if a > 0 else -math.inf) - (math.log(b) if b > 0 else -math.inf)


def _cast(w: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor | float:
    return float(w) if w.ndim == 0 else w.to(device, dtype)


def _inside(table: Table, style: Style, end: float, nodes: Sequence[float], ratio: float, a: float) -> tuple:
    """(A, constant, *weights of f), and for f's own forecast at `end`: its growth and what is added before it grows."""
    base, h = nodes[0], end - nodes[0]
    lam = torch.cat([base + (POINTS + 1) * (h / 2), torch.tensor([*nodes, end], dtype=torch.float64)])
    less, grow = (table.at(v, lam, whole=True) for v in (table.less, table.s))
    q = len(POINTS)
    less, grow = less - less[q], grow - grow[q]
    own = table.at(table.s, _ladder(table), whole=True) - table.at(table.s, lam[q : q + 1], whole=True)
    drift = table.at((-own).exp() * table.b, lam, whole=True)
    drift = drift - drift[q]
    column = [1] * (less.ndim - 1)
    kernel = ((lam[:q] - base).reshape(-1, *column) + less[:q] + grow[:q]).exp() * (SHARES * (h / 2)).reshape(-1, *column)
    means, product = [], torch.ones(q, dtype=torch.float64)
    for k, node in enumerate(nodes):
        means.append((kernel * product.reshape(-1, *column)).sum(0))
        product = product * (lam[:q] - (base if style.pseudo else node))
        if k == 1 and style.half and len(nodes) == 2:
            means[1] = means[0] * (h / 2)
    of_f, constant = [], (kernel * drift[:q]).sum(0)
    for j, w in enumerate(_of_values(nodes, means)):
        of_f.append(w * (-grow[q + j]).exp())
        constant = constant - w * drift[q + j]
    A = ratio * (-less[-1]).exp()
    return (A, -A * a * constant, *(-A * a * w for w in of_f)), (grow[-1].exp(), drift[-1])


def _ladder(table: Table) -> Tensor:
    return torch.linspace(table.low, table.high, len(table.s), dtype=torch.float64)


def _of_values(nodes: Sequence[float], means: Sequence[Tensor]) -> list[Tensor]:
    """Weights of divided differences -> weights of values: f[0..k] = sum_j f_j / prod_{i <= k, i != j} (u_j - u_i)."""
    found = [torch.zeros_like(m) for m in means]
    for k, mean in enumerate(means):
        for j in range(k + 1):
            share = mean
            for i in range(k + 1):
                share = share if i == j else share / (nodes[j] - nodes[i])
            found[j] = found[j] + share
    return found
