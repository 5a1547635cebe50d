"""Exponential Runge-Kutta steps in log-SNR, of noise (DPM-Solver) or of x0 (DPM-Solver++), orders 1 to 3.

With lambda = log(a/s), h = lambda_s - lambda_t, nodes at lambda_t + r h: for noise g = h and B = s, for x0 g = -h and B = a;
then both are the same formulas. With phi2 = (e^g - 1)/g - 1, phi3 = phi2/g - 1/2 and G_j = f_j - f_0, after DDIM's step:
order 2, r = 1/2:         x_s -= B_s (e^g - 1) G_1 / (2r)            ('taylor': B_s phi2(g) G_1 / r)
order 3, r = 1/3, q = 2/3: u_2 -= B_2 (q/r) phi2(q g) G_1             ('midpoint': B_2 (q/r) (e^qg - 1)/2 G_1)
                          x_s -= B_s phi2(g) G_2 / q                 ('taylor': B_s (phi2 D1 + phi3 D2))
with D1, D2 the first two derivatives of the parabola through f_0, f_1, f_2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.process import Levels, Process

from .singlestep import Plan, nodes_at

__all__ = ["FORMS", "ExponentialRule", "check"]

FORMS = ("paper", "taylor", "midpoint")
NODES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}


def check(part: str, order: int, form: str) -> None:
    """Orders 1 to 3 in a known form."""
    if order not in NODES:
        raise OrnsteinError(f"order={order!r} of {part} does not exist", "Ask for 1, 2 or 3.")
    if form not in FORMS:
        raise unknown(f"form of {part}", form, FORMS)


@dataclass(frozen=True)
class ExponentialRule:
    """kind: 'noise' or 'x0'. Steps that are infinitely long, from pure noise or to the data, are of first order."""

    kind: str
    order: int
    form: str = "paper"

    def plan(self, process: Process, now: Levels, to: Levels, shape: torch.Size) -> Plan:
        whole = torch.isfinite(now.logsnr) & torch.isfinite(to.logsnr)
        if self.order == 1 or (whole.ndim == 0 and not bool(whole)):
            return Plan((), (), ((),), to)
        one = torch.ones_like(now.t)
        low, high = torch.where(whole, now.logsnr, 0 * one), torch.where(whole, to.logsnr, one)
        times = [process.time(low + r * (high - low)) for r in NODES[self.order]]
        nodes, asks = nodes_at(process, now, times, whole, shape)
        g = (high - low) / 2 * (1 if self.kind == "noise" else -1)
        away = [torch.where(whole, -(n.s if self.kind == "noise" else n.a), 0 * one) for n in (*nodes, to)]
        weights = self._second(g, away) if self.order == 2 else self._third(g, away)
        return Plan(nodes, asks, weights, to)

    def _second(self, g: Tensor, away: list[Tensor]) -> tuple:
        (r,) = NODES[2]
        return (), (away[1] * (_phi2(g) / r if self.form == "taylor" else torch.expm1(g) / (2 * r)),)

    def _third(self, g: Tensor, away: list[Tensor]) -> tuple:
        r, q = NODES[3]
        inner = torch.expm1(q * g) / 2 if self.form == "midpoint" else _phi2(q * g)
        end = (0.0, away[2] * _phi2(g) / q)
        if self.form == "taylor":  # D1 = (q G1/r - r G2/q)/(q - r), D2 = 2 (G2/q - G1/r)/(q - r)
            two, three = _phi2(g), _phi2(g) / g - 0.5
            end = away[2] * (q * two - 2 * three) / (r * (q - r)), away[2] * (2 * three - r * two) / (q * (q - r))
        return (), (away[1] * (q / r) * inner,), end


def _phi2(g: Tensor) -> Tensor:
    return torch.expm1(g) / g - 1
