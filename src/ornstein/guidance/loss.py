"""Loss guidance: any differentiable function of the clean sample steers, without training; with recurrence.

Universal Guidance for Diffusion Models, Arpit Bansal, Hong-Min Chu, Avi Schwarzschild, Soumyadip Sengupta, Micah Goldblum,
Jonas Geiping, Tom Goldstein, 2023, arXiv:2302.07121 (eq. 6 and algorithm 1: forward guidance and self-recurrence); FreeDoM, Jiwen
Yu et al., 2023, arXiv:2303.09833 (the same with an energy, recurrence at middle times); DPS, Hyungjin Chung, Jeongsol Kim,
Michael T. McCann, Marc L. Klasky, Jong Chul Ye, 2022, arXiv:2209.14687 (eq. 10: p(y | x_t) by p(y | x0hat(x_t))):

    score' = score - w grad_{x_t} loss(x0hat(x_t)),   then k - 1 times more   x_t <- (a_t/a_s) x_s + B^{1/2} noise.

p(y | x0hat) is too sure of itself while x0 is uncertain: with a measurement's noise given, the gradient counts
noise^2 / (noise^2 + r^2) as much (after Song et al. 2023, Pseudoinverse-Guided Diffusion Models; r^2 of layers/gradient), which is
exact where the data are Gaussian. Costs the loss, forward and backward; through='xt', as published, the network's backward too
(about 2 calls more); `Recurrence` multiplies all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, posterior_weights

from .layers.contrast import ALWAYS, check_interval
from .layers.gradient import check, guided, needs, spread

__all__ = ["Loss", "Recurrence"]

FACT = "recurrence"


@dataclass(frozen=True, eq=False)
class Loss:
    """x0 moved against the gradient of a loss, per sample. A loss is minus a log-density: 1/(2 noise^2) |y - A x0|^2."""

    loss: Callable[[Tensor, Any], Tensor] | None = None  # (x0 [B, ...], cond) -> [B], row by row
    strength: float = 0.0  # w; 0 = off
    through: str = "xt"  # 'xt': through the network, as published; 'x0': with respect to x0 alone, at no network's cost
    std: float = 0.5  # standard deviation of the data, for r^2 where through='x0' and for unit
    noise: float = 0.0  # of the measurement that the loss is about: pulls by noise^2 / (noise^2 + r^2) as much; 0: in full
    unit: bool = False  # gradients of unit length, as DPS and FreeDoM scale them
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s), (low, high]: 0 data, 1 noise

    def __post_init__(self) -> None:
        check(self.strength, self.through, self.std, self.interval)
        if self.through == "noisy":
            raise OrnsteinError("loss guidance has no loss of noisy samples", "Choose through='xt' or 'x0'.")
        if not 0 <= self.noise < float("inf"):
            raise OrnsteinError(f"Loss(noise={self.noise})", "Give the measurement's standard deviation, or 0.")
        if self.strength != 0:
            needs(self.loss, "loss guidance", "loss=, a function of clean samples and condition to [B]")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: whatever the loss reads."""
        return guided(denoiser, x, t, cond, clock, self._log_density, self.strength, self.through, self.std,
                      self.interval, self.unit, self._factor if self.noise else None)  # fmt: skip

    def _log_density(self, x0: Tensor, levels: Levels, cond: Any) -> Tensor:
        return -self.loss(x0, cond)

    def _factor(self, levels: Levels) -> Tensor:
        """Of a loss |y - A x0|^2 / (2 noise^2): as if the measurement had the variance noise^2 + r^2."""
        return self.noise**2 / (self.noise**2 + spread(levels, self.std))


@dataclass(frozen=True)
class Recurrence(Controller):
    """A controller of the loop: each step is taken `times` times, from x_s noised back to t in between.

    A multistep solver's memory begins anew with each repetition, and plugins forget what they remember.
    State.facts['recurrence']: how often the step in progress has been taken.
    """

    times: int = 1  # k; 1 = the plain sampler. Universal guidance: 1 to 10
    interval: tuple[float, float] = ALWAYS  # flow times at which steps are repeated; FreeDoM: the middle

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.times < 1:
            raise OrnsteinError(f"Recurrence(times={self.times})", "Give at least 1.")

    def after(self, before: State, now: State) -> State:
        """Back to the step's start with fresh noise, or on."""
        if now.step <= before.step:  # another controller went back
            return now
        done = now.facts.get(FACT, 0) + 1
        top, low = (now.process.at(now.times[k], now.x) for k in (before.step, now.step))
        inside = self.interval[0] < float(top.flow_time) <= self.interval[1]
        if done >= self.times or not inside:
            return replace(now, facts=now.facts | {FACT: 0}) if FACT in now.facts else now
        *_, fresh = posterior_weights(top, low)
        noise = now.noise.anew().draw(-1, now.x)  # the loop goes on with the same fresh streams, of other draws
        x = top.a / low.a * now.x + fresh.clamp_min(0).sqrt() * noise
        return replace(before, x=x, facts=now.facts | {FACT: done})
