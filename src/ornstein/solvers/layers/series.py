"""Weights of the further terms of an exponential integrator's Taylor series, for derivatives taken from differences."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["remembered", "weights"]


def weights(noise: bool, low: bool, exact: bool, h: Tensor, g: Tensor, g2: Tensor | None = None) -> list[Tensor]:
    """What f(node) - f(base) counts, times a_s for f = x0 and s_s for f = noise; one per node, of the shape of h.

    h, g, g2: distances in lambda = log(a/s) from the base to the step's end and to one or two nodes, [] or broadcast over
    the sample; where h or g is infinite the step is of first order, where g2 is, two points remain. low: x0' from the line
    through base and first node, else from the parabola. exact: the integrals I_k and J_k, else I_0 h^k/(k+1)!.
    """
    first = torch.expm1(h) if noise else -torch.expm1(-h)
    one, two = first * h / 2, first * h**2 / 6
    if exact:
        one = first - h if noise else h - first
        two = one - h**2 / 2 if noise else h**2 / 2 - one
    sign, fine, none = -1 if noise else 1, torch.isfinite(h) & torch.isfinite(g), torch.zeros_like(one * g)
    if g2 is None:
        return [torch.where(fine, sign * one / g, none)]
    curve = 2 * two if low else 2 * two - g * one  # of the divided difference f[base, node, node]
    bent = torch.isfinite(g2)
    near = torch.where(bent, one / g - curve / (g * (g2 - g)), one / g)
    far = curve / (g2 * (g2 - g))
    return [torch.where(fine, sign * near, none), torch.where(fine & bent, sign * far, none)]


@lru_cache(maxsize=4096)
def remembered(noise: bool, low: bool, exact: bool, *distances: float) -> tuple[float, ...]:
    """The weights for scalar times: a pure function of numbers."""
    given = (torch.tensor(v, dtype=torch.float64) for v in distances)
    return tuple(map(float, weights(noise, low, exact, *given)))
