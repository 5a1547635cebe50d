"""What the stochastic solvers share: a step is a move to a lower noise level, then fresh noise up to where it was to end.

At s the sample is a_s x0 + s_s noise. Of s_s a step keeps `kept` from x_t and draws `fresh`, kept^2 + fresh^2 = s_s^2:
x_s = kept/s_t x_t + (a_s - a_t kept/s_t) x0 + fresh xi. Solvers differ in `kept` and in the x0 that they believe in.
With e^-h = (a_t s_s)/(a_s s_t), h the step in lambda = log(a/s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core.process import Levels, Process, remembered

__all__ = ["adams", "ancestral", "decayed", "ratio", "renew", "split", "weights"]

Weight = float | Tensor


def weights(rule: Callable, process: Process, x: Tensor, times: tuple, *settings: Any) -> tuple[Weight, ...]:
    """rule(levels at the times, *settings) -> weights: remembered floats where all times are scalars, else tensors of
    x's type that broadcast over x [B, ...]. The rule reckons in float64 and is a pure function."""
    if all(not isinstance(t, Tensor) or (t.ndim == 0 and not t.requires_grad) for t in times):
        return _numbers(process, rule, tuple(map(float, times)), settings)
    like = x.new_zeros((), dtype=torch.float64).expand(x.shape)
    return tuple(torch.as_tensor(w).to(x) for w in rule(tuple(process.at(t, like) for t in times), *settings))


def _scalar(process: Process, rule: Callable, times: tuple[float, ...], settings: tuple) -> tuple[float, ...]:
    like = torch.empty((), dtype=torch.float64)
    return tuple(float(w) for w in rule(tuple(process.at(t, like) for t in times), *settings))


_numbers = remembered(_scalar)


def ratio(now: Levels, to: Levels) -> Tensor:
    """e^-h: 0 where a step comes from pure noise or goes to the data."""
    return now.a * to.s / (to.a * now.s)


def ancestral(now: Levels, to: Levels, eta: float) -> Tensor:
    """`kept` where fresh = eta s_s sqrt(1 - e^-2h): eta = 1 is the Markov chain's own posterior."""
    return to.s * ((1 - eta**2) + eta**2 * ratio(now, to) ** 2).clamp_min(0).sqrt()


def decayed(now: Levels, to: Levels, eta: float | Tensor) -> Tensor:
    """`kept` of the reverse SDE with tau^2 = eta, exactly: s_s e^(-eta h)."""
    return to.s * ratio(now, to) ** eta


def split(now: Levels, to: Levels, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of x_t, of x0 and of fresh noise."""
    return kept / now.s, to.a - now.a * kept / now.s, (to.s**2 - kept**2).clamp_min(0).sqrt()


def adams(h: Tensor, rate: float | Tensor, nodes: tuple[Tensor, ...], first: str = "exact",
          half: bool = False) -> list[Tensor]:  # fmt: skip
    """Weights of one to three values of x0, at lambda_t + nodes, in rate * integral_0^h e^(-rate (h-u)) P(u) du.

    P interpolates them. A node that is not finite, and those after it, count for nothing; so do all but the first where h
    is infinite. first: how the linear term is weighed where there are two nodes: 'exact', 'midpoint' (half a step times
    the weight of a constant) or 'taylor' (its leading term); half: half the square term.
    """
    I0 = -torch.expm1(-rate * h)
    endless = ~torch.isfinite(h)
    g = torch.where(endless, torch.ones_like(h), h)
    I1 = g - I0 / rate
    I2 = (g**2 - 2 / rate * I1) * (0.5 if half else 1.0)
    if len(nodes) == 2:
        I1 = {"exact": I1, "midpoint": I0 * g / 2, "taylor": rate * g**2 / 2}[first]
    found, good, u = [I0, *(torch.zeros_like(I0) for _ in nodes[1:])], ~endless, list(nodes)
    for k in range(1, len(u)):
        good = good & torch.isfinite(u[k])
        u[k] = torch.where(good, u[k], u[0] - k)  # anything: it will not count
    if len(u) > 1:
        slope = torch.where(endless | (u[0] == u[1]), 0.0, (I1 - u[0] * I0) / (u[0] - u[1]))
        slope = torch.where(torch.isfinite(nodes[1]), slope, 0.0)
        found[0], found[1] = found[0] + slope, found[1] - slope
    if len(u) > 2:
        bend = torch.where(good, (I2 - (u[0] + u[1]) * I1 + u[0] * u[1] * I0) / (u[0] - u[2]), 0.0)
        one, two = bend / (u[0] - u[1]), bend / (u[1] - u[2])
        found = [found[0] + one, found[1] - one - two, found[2] + two]
    return found


def renew(x: Tensor, fresh: Weight, memory: dict) -> tuple[Tensor, dict]:
    """x plus `fresh` times the next draw. Where there is none to add the draw is passed over, but counted: a row's noise
    is that of its step, whatever its neighbours need."""
    if not (isinstance(fresh, float) and fresh == 0):
        x = x + fresh * memory["noise"].draw(memory["k"], x)
    return x, memory | {"k": memory["k"] + 1}
