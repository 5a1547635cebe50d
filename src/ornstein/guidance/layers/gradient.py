"""Guidance by a gradient: what a differentiable log-density says about the sample moves the clean sample that is predicted.

With p(x_t) p(y | x_t) in place of p(x_t), score' = score + g, g = grad log p(y | x_t), and in terms of the prediction

    x0' = x0 + (s^2 / a) g.

Three places to take g, and what each asks for: 'noisy' from a function of x_t that was trained on noise (its backward pass);
'xt' from a function of x0hat(x_t), differentiated through the network (about one more network call); 'x0' from a function of
x0hat, with respect to x0hat alone (nothing more): there (s^2 / a) (d x0hat / d x_t)^T = Cov[x0 | x_t], for which stands
r^2 I, r^2 = v s^2 / (a^2 v + s^2), the covariance were the data a Gaussian of variance v (Song et al. 2023, PiGDM).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels

from .contrast import check_interval

__all__ = ["PLACES", "check", "guided", "labelled", "needs", "places", "slope", "spread"]

PLACES = ("noisy", "xt", "x0")
LIMIT = 100.0  # s/a counts as no more: pure noise says nothing, and has no finite weight in the equation above

LogDensity = Callable[[Tensor, Levels, Any], Tensor]  # (x0hat, or x_t where 'noisy', [B, ...], levels, cond) -> [B]


def check(strength: float, through: str, std: float, interval: tuple[float, float]) -> None:
    """OrnsteinError where a setting of a guidance by gradient makes no sense."""
    check_interval(interval)
    if through not in PLACES:
        raise unknown("place of a gradient", through, PLACES)
    if not std > 0 or strength != strength or abs(strength) == float("inf"):
        raise OrnsteinError(f"strength={strength}, std={std} of a guidance by gradient",
                            "Give a finite strength, and a standard deviation of the data above 0.")  # fmt: skip


def needs(value: Any, part: str, what: str) -> Any:
    """The value, or an OrnsteinError that says what to give."""
    if value is None:
        raise OrnsteinError(f"{part} has a strength but nothing to follow", f"Give {what}, or strength=0.")
    return value


def slope(log_density: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of each row's log-density [B] with respect to that row of `at` [B, ...]."""
    with torch.enable_grad():
        at = at.detach().requires_grad_(True)
        return torch.autograd.grad(_rows(log_density(at), at).sum(), at)[0]


def labelled(values: Tensor, label: Tensor) -> Tensor:
    """Of values [B, K] those at the labels [B]; 0 where the label is none of them: a row without a label is not guided."""
    label = label.to(values.device)
    known = (label >= 0) & (label < values.shape[1])
    return values.gather(1, label.clamp(0, values.shape[1] - 1)[:, None])[:, 0] * known


def places(levels: Levels, x: Tensor) -> Tensor:
    """The flow time s/(a+s) of each row of x [B, ...], [B]; of its first element where the elements differ."""
    place = levels.flow_time.to(x)
    return (place.flatten(1)[:, 0] if place.ndim else place).expand(len(x))


def spread(levels: Levels, std: float) -> Tensor:
    """r^2: the variance of x0 given x_t, were the data a Gaussian of standard deviation `std`."""
    return std**2 * levels.s**2 / (levels.a**2 * std**2 + levels.s**2)


def guided(denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock, log_density: LogDensity, strength: float,
           through: str = "x0", std: float = 1.0, interval: tuple[float, float] = (0.0, 1.0), unit: bool = False,
           factor: Callable[[Levels], Tensor] | None = None) -> Prediction:  # fmt: skip
    """The denoiser's answer, moved up the log-density at flow times in (low, high]. x: [B, ...]; one network call.

    unit: the change of x0 keeps its direction and gets the root mean square strength * r in every sample, however long the
    gradient is. factor(levels): times the strength.
    """
    if strength == 0:
        return denoiser(x, t, cond, clock)
    place = denoiser.process.at(t, x).flow_time
    inside = (place > interval[0]) & (place <= interval[1])
    if not bool(inside.any()):
        return denoiser(x, t, cond, clock)
    if through == "xt":
        said, g = _through(denoiser, x, t, cond, clock, log_density)
    else:
        said = denoiser(x, t, cond, clock)
        g = slope(lambda at: log_density(at, said.levels, cond), x if through == "noisy" else said.x0)
    L = said.levels
    if unit:
        rms = g.square().flatten(1).mean(1).sqrt().clamp_min(1e-12).reshape(-1, *[1] * (x.ndim - 1))
        change = spread(L, std).sqrt() * g / rms
    elif through == "x0":
        change = spread(L, std) * g
    else:
        change = L.s * (L.s / L.a.clamp_min(1e-12)).clamp_max(LIMIT) * g
    strong = strength if factor is None else strength * factor(L)
    moved = said.x0 + (strong * change).to(x.dtype)
    if not bool(inside.all()):
        moved = torch.where(inside.expand_as(moved), moved, said.x0)
    return said.like("x0", moved)


def _through(denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock,
             log_density: LogDensity) -> tuple[Prediction, Tensor]:  # fmt: skip
    """The answer at x, and the gradient with respect to x of the log-density of its x0."""
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        said = denoiser(at, t, cond, clock)
        if not said.x0.requires_grad:
            raise OrnsteinError("this denoiser cannot be differentiated", "Take the gradient with through='x0'.")
        g = torch.autograd.grad(_rows(log_density(said.x0, said.levels, cond), x).sum(), at)[0]
    return Prediction(x, said.levels, said.kind, said.value.detach()), g


def _rows(value: Tensor, like: Tensor) -> Tensor:
    if value.shape != like.shape[:1]:
        raise OrnsteinError(f"the guide answered {list(value.shape)} for a batch of {len(like)}",
                            "It must give one log-density for each sample, [B].")  # fmt: skip
    if not value.requires_grad:
        raise OrnsteinError("the guide's answer does not depend on the sample by a gradient",
                            "Leave out no_grad, argmax and rounding, or choose among samples by steering instead.")  # fmt: skip
    return value
