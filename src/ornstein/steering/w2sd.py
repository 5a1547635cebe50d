"""W2SD: before each step, a step with the strong model and back again with a weak one, towards what the strong one lacks.

Weak-to-Strong Diffusion with Reflection, Lichen Bai, Masashi Sugiyama, Zeke Xie, 2025, arXiv:2502.00473 (algorithm 1). With the
run's denoiser as the strong one, at every step t -> s but the last

    x_s = step_strong(x_t),   x~_t = a_t x0_weak + s_t noise_weak of (x_s, s),   x_s <- step_strong(x~_t),

the second line being DDIM's inversion. To first order x~_t - x_t = (sigma_t - sigma_s) a_t (noise_weak - noise_strong), along
the difference of the scores. Strong and weak may differ in guidance scale (then it is Z-Sampling), in an adapter, a
checkpoint or a prompt. Costs three calls a step instead of one: two of the strong, one of the weak. For ODE solvers; a
solver with several steps of memory starts anew at each reflection, and so do plugins of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, State
from ornstein.core.process import Process

__all__ = ["W2SD", "invert"]

FACT = "w2sd"


def invert(weak: Denoises, x: Tensor, t: Any, s: Any, cond: Any, clock: Clock, faithful: bool = False) -> Tensor:
    """x [B, ...] at time s carried back up to t > s by one step of DDIM under the weak denoiser.

    faithful: the weak denoiser is told the time t about x at s, as the authors' program does.
    """
    now, to = weak.process.at(s, x), weak.process.at(t, x)
    if not faithful:
        said = weak(x, s, cond, clock)
        return to.a * said.x0 + to.s * said.noise
    noise = weak(x, t, cond, clock).noise
    return to.a * (x - now.s * noise) / now.a + to.s * noise


@dataclass(frozen=True, eq=False)
class W2SD(Controller):
    """Without a weak denoiser it is the plain sampler. State.facts['w2sd']: 'reflected', how many steps were."""

    weak: Denoises | None = None  # over the run's process, asked on the branch 'weak' with the run's condition
    interval: tuple[float, float] = (0.0, 1.0)  # flow times s/(a+s) of a step's start, (low, high], in which it reflects
    every: int = 1  # reflect at each so-many-th step
    faithful: bool = False  # the time that the weak denoiser is told: the step's start, as released, not x's own

    def __post_init__(self) -> None:
        if not 0 <= self.interval[0] < self.interval[1] <= 1 or self.every < 1:
            raise OrnsteinError(f"W2SD(interval={self.interval}, every={self.every})",
                                "Give flow times that rise within [0, 1], and reflect at each step or fewer.")  # fmt: skip

    def after(self, before: State, now: State) -> State:
        """The state before the step, reflected; or, once that has been done for this step, the one after it."""
        if self.weak is None or now.step <= before.step:
            return now
        known = before.facts.get(FACT, {"step": -1, "reflected": 0})
        t, s = (now.times[k] for k in (before.step, before.step + 1))
        if known["step"] == before.step:  # the second time; a third begins anew, after another controller went back
            return replace(now, facts=now.facts | {FACT: known | {"step": -1}})
        if not self._wanted(before.step, t, s, now.process):
            return now
        if now.ids != before.ids:
            raise OrnsteinError("another controller chose rows of a step that W2SD takes back", "List W2SD before it.")
        if self.weak.process != now.process:
            raise OrnsteinError(f"the weak model lives on {self.weak.process}, the strong one on {now.process}",
                                "Reflect with a model of the same process.")  # fmt: skip
        clock = Clock(before.step, 0, now.steps, s, "weak", now.ids)
        x = invert(self.weak, now.x, t, s, now.cond, clock, self.faithful)
        facts = {FACT: {"step": before.step, "reflected": known["reflected"] + 1}}
        return replace(before, x=x, facts=now.facts | facts)

    def _wanted(self, step: int, t: Tensor, s: Tensor, process: Process) -> bool:
        place = float(process.at(t, t).flow_time)
        return float(s) > 0 and step % self.every == 0 and self.interval[0] < place <= self.interval[1]
