"""Step sizes by an error tolerance: the pair of Bogacki and Shampine, orders 3 and 2, within each interval of the grid.

A 3(2) Pair of Runge-Kutta Formulas, Bogacki, Shampine, Applied Mathematics Letters 2(4), 1989; for diffusion, Score-Based
Generative Modeling through Stochastic Differential Equations, Song et al., 2020, arXiv:2011.13456 (section 4.3, a black-box
ODE solver). Every Gaussian process is the linear flow in y = x/(a+s), tau = s/(a+s), dy/dtau = noise - x0 = f; with
k1..k4 its values at c = 0, 1/2, 3/4, 1,
y' = y + h (2/9 k1 + 1/3 k2 + 4/9 k3), err = h (-5/72 k1 + 1/12 k2 + 1/9 k3 - 1/8 k4),
E = rms(err / (atol + rtol max(|y|, |y'|))); y' is kept where E <= 1, and h becomes 0.9 E^(-1/3) h, between 0.2 h and 5 h.
Costs 1 network call per interval and 3 per step tried, of the row that needs most; the step from t_min to the data is free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

__all__ = ["Adaptive"]


@dataclass(frozen=True)
class Adaptive:
    """Of order 3 where a whole interval meets the tolerance at once; else the error is the tolerance's, not the grid's.

    Every row has step sizes of its own. With one interval, steps=1, the solver finds the whole grid. The loop waits for the
    device once per step tried.
    """

    rtol: float = 0.001  # error per step tried, relative to |y|
    atol: float = 0.001  # and absolute, in units of the data (y has the scale of x0 near the data, of unit noise far off)
    calls: int = 1000  # at most, per interval of the grid

    order = 3

    def __post_init__(self) -> None:
        if self.rtol < 0 or self.atol < 0 or self.rtol + self.atol == 0:
            what = f"adaptive with rtol={self.rtol}, atol={self.atol} can never be content"
            raise OrnsteinError(what, "Give tolerances of 0 or above, one of them above.")
        if self.calls < 4:
            raise OrnsteinError(f"calls={self.calls} of adaptive is too few for one step", "Allow at least 4.")

    def start(self, x: Tensor, noise: NoiseSource) -> None:
        return None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: None) -> tuple[Tensor, None]:  # fmt: skip
        t, s = (_rows(v, x) for v in (t, s))
        now, to = process.at(t, x), process.at(s, x)
        stop = torch.where(s > 0, s, s.new_tensor(process.t_min).minimum(t))  # the data are one free step from t_min
        start, end = now.flow_time, process.at(stop, x).flow_time

        def slope(y: Tensor, tau: Tensor) -> Tensor:
            when = process.time(2 * ((1 - tau) / tau).log()).flatten()
            when = torch.where(tau.flatten() <= end.flatten(), stop, when)
            when = torch.where(tau.flatten() >= start.flatten(), t, when)
            L = process.at(when, x)
            said = denoise(y * (L.a + L.s), when)
            return said.noise - said.x0

        y, k = self._drive(slope, x / (now.a + now.s), start, end)
        return torch.where(to.s == 0, to.a * (y - end * k), y * (to.a + to.s)), memory

    def _drive(self, slope, y: Tensor, tau: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """y and its slope at `end`, row by row."""
        k1, h, calls = slope(y, tau), end - tau, 1
        while True:
            busy = tau > end
            stuck = busy & (tau + h == tau)
            waiting, lost = torch.stack([busy.any(), stuck.any()]).tolist()
            if not waiting:
                return y, k1
            if lost or calls + 3 > self.calls:
                raise self._error(int(busy.sum()), len(y), calls, bool(lost))
            there = torch.where(h <= end - tau, end, tau + h)  # exactly the end where the step reaches it
            h = there - tau
            k2 = slope(y + h / 2 * k1, tau + h / 2)
            k3 = slope(y + 3 / 4 * h * k2, tau + 3 / 4 * h)
            new = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
            k4 = slope(new, there)
            calls += 3
            error = h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
            E = (error / (self.atol + self.rtol * y.abs().maximum(new.abs()))).flatten(1).square().mean(1).sqrt()
            E = torch.nan_to_num(E, nan=torch.inf).reshape(tau.shape)
            kept = busy & (E <= 1)
            y, k1, tau = torch.where(kept, new, y), torch.where(kept, k4, k1), torch.where(kept, there, tau)
            h = torch.where(busy, h * (0.9 * E.clamp_min(1e-9) ** (-1 / 3)).clamp(0.2, 5.0), h)

    def _error(self, rows: int, batch: int, calls: int, lost: bool) -> OrnsteinError:
        why = "the step has shrunk to nothing" if lost else f"{self.calls} calls do not suffice"
        what = f"adaptive: {rows} of {batch} rows miss rtol={self.rtol}, atol={self.atol} after {calls} calls: {why}"
        return OrnsteinError(what, "Loosen the tolerance, raise `calls`, or look for answers that are not finite.")


def _rows(t: Tensor, x: Tensor) -> Tensor:
    """One time per row, [B]."""
    t = torch.as_tensor(t, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
    if t.ndim > 1:
        raise OrnsteinError(f"adaptive takes one time per sample, not {tuple(t.shape)}", "Use a solver of fixed steps.")
    return t.expand(len(x))
