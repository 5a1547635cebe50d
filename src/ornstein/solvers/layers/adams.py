"""The weights of Adams methods on uneven nodes, and the transfer map of DDIM that carries their slope.

In xbar = x/a and sigma = s/a every Gaussian process reads d xbar/d sigma = noise, so that x_s = a_s x0 + s_s e + (s_s -
a_s sigma_t)(u - e), with u the mean of the noise over the step: DDIM where u = e, and never by way of x/a.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels

__all__ = ["adams", "blank", "blend", "constant", "means", "transfer"]

LIMIT = 12.0  # of the weights' sum of magnitudes: 6.7 for four equal steps, 11.2 for four that alternate 1 : 2

# Gauss and Legendre's 6 places in [0, 1] and their weights: exact to degree 11
_PLACES = (0.03376524289842397, 0.16939530676686776, 0.38069040695840156)
_WEIGHTS = (0.08566224618958517, 0.1803807865240693, 0.23395696728634552)
PLACES = (*_PLACES, *(1 - v for v in reversed(_PLACES)))
WEIGHTS = (*_WEIGHTS, *reversed(_WEIGHTS))


def adams(nodes: Sequence[Tensor], to: Tensor) -> tuple[Sequence, Sequence]:
    """Adams weights of the values at `nodes` (newest first): over the step ahead, to `to`, and over the step before.

    The oldest values are left out, with weight 0, as far as it takes to keep the sum of the magnitudes of the weights
    ahead within LIMIT: past it an extrapolation is no better than a guess. Every row decides for itself.
    """
    if all(v.ndim == 0 for v in (*nodes, to)):
        return _adams(tuple(float(v) for v in nodes), float(to))
    ahead, behind = ([torch.full_like(v, float(j == 0)) for j, v in enumerate(nodes)] for _ in range(2))
    for count in range(2, len(nodes) + 1):
        new = means(nodes[:count], nodes[0], to)
        fits = sum(w.abs() for w in new) <= LIMIT
        old = means(nodes[:count], nodes[1], nodes[0])
        for chosen, offered in ((ahead, new), (behind, old)):
            chosen[:count] = [torch.where(fits, w, v) for w, v in zip(offered, chosen)]
            chosen[count:] = [torch.where(fits, torch.zeros_like(v), v) for v in chosen[count:]]
    return ahead, behind


@lru_cache(maxsize=4096)
def _adams(nodes: tuple[float, ...], to: float) -> tuple[list[float], list[float]]:
    for count in range(len(nodes), 1, -1):
        ahead = _remembered(nodes[:count], nodes[0], to)
        if sum(abs(w) for w in ahead) <= LIMIT:
            zeros = [0.0] * (len(nodes) - count)
            return [*ahead, *zeros], [*_remembered(nodes[:count], nodes[1], nodes[0]), *zeros]
    return ([float(j == 0) for j in range(len(nodes))],) * 2


def means(nodes: Sequence[Tensor], low: Tensor, high: Tensor) -> Sequence:
    """Weights w_j with sum_j w_j f(nodes_j) = the mean over sigma of the polynomial in tau through the f(nodes_j).

    tau = sigma/(1 + sigma) = s/(a+s) is finite also where sigma is not. nodes (newest first), low and high, between which
    the mean is taken: flow times tau, [] or broadcast over the sample. Floats for scalars, and those are remembered.
    """
    every = (*nodes, low, high)
    if all(v.ndim == 0 for v in every):
        *places, lower, upper = (float(v) for v in every)
        return _remembered(tuple(places), lower, upper)
    weights = _weights(nodes, low, high)
    good = torch.isfinite(sum(weights))  # not where two nodes are one: at s = 0, after a row is done
    return [torch.where(good, w, torch.full_like(w, float(j == 0))) for j, w in enumerate(weights)]


@lru_cache(maxsize=4096)
def _remembered(nodes: tuple[float, ...], low: float, high: float) -> list[float]:
    if len(set(nodes)) < len(nodes):
        return [float(j == 0) for j in range(len(nodes))]
    return [float(w) for w in _weights(nodes, low, high)]


@lru_cache(maxsize=64)
def constant(count: int, ago: int = 0) -> list[float]:
    """The same of `count` equal steps of any variable, over the step ahead (ago = 0: Adams and Bashforth's) or the one
    before it (ago = 1: Adams and Moulton's)."""
    return [float(w) for w in _weights([-float(j) for j in range(count)], -float(ago), 1.0 - ago, even=True)]


def _weights(nodes: Sequence, low: Tensor | float, high: Tensor | float, even: bool = False) -> list:
    """Integrals of Lagrange's polynomials in tau with the density d sigma/d tau = 1/(1 - tau)^2, or with none."""
    totals, whole = [0.0] * len(nodes), 0.0
    for place, weight in zip(PLACES, WEIGHTS):
        tau = low + place * (high - low)
        density = weight if even else weight / (1 - tau) ** 2
        whole = whole + density
        for j, own in enumerate(nodes):
            value = density
            for m, other in enumerate(nodes):
                value = value if m == j else value * ((tau - other) / (own - other))
            totals[j] = totals[j] + value
    return [total / whole for total in totals]


def blend(weights: Sequence, values: Sequence[Tensor]) -> Tensor:
    """sum_j w_j v_j, each v [B, ...]; w: floats, or broadcast over v."""
    total = values[0] * weights[0]
    for w, v in zip(weights[1:], values[1:]):
        total = total.add_(v, alpha=w) if isinstance(w, float) else total + w * v
    return total


def blank(now: Levels) -> bool:
    """Whether a scalar time has no signal at all (a linear flow at its prior): noise = x/s there, and says nothing."""
    return now.a.ndim == 0 and float(now.a) == 0


def transfer(said: Prediction, to: Levels, weights: Sequence = (), values: Sequence[Tensor] = ()) -> Tensor:
    """x at `to` from the answer at its own level, with sum_j w_j v_j for the mean noise over the step; none: DDIM."""
    x0, noise, sigma = said.x0, said.noise, said.levels.sigma
    a, s = (float(v) if v.ndim == 0 else v for v in (to.a, to.s))
    if not values:
        return blend((a, s), (x0, noise))
    if sigma.ndim == 0:
        sigma = float(sigma)
        span = s - a * sigma if sigma < float("inf") else 0.0
    else:
        span = torch.where(torch.isfinite(sigma), s - a * sigma, torch.zeros_like(sigma))
    if values[0] is noise:
        own, weights, values = s - span + span * weights[0], weights[1:], values[1:]
    else:
        own = s - span
    return blend((a, own, *(span * w for w in weights)), (x0, noise, *values))
