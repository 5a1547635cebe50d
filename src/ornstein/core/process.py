"""Forward processes: x_t = a(t) x_0 + b(t) y + s(t) noise, with t = 0 at the data and t = t_max at the prior.

`Process.at` is the only place of the library that broadcasts a time over a sample: t may be a scalar, one per sample
[B], one per frame or token [B, N], or already of the rank of x. logSNR = 2 log(a/s) is the canonical noise coordinate.
The coefficients at a scalar time are scalars of the host, float64: they broadcast over a sample of any type on any device
without a copy, and are remembered, so that a step of a sampler costs no arithmetic on them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from .catalog import build
from .errors import OrnsteinError

__all__ = ["Levels", "Process", "expand", "grid", "pick", "posterior_weights", "remembered"]


@dataclass(frozen=True)
class Levels:
    """The coefficients at a time: [] on the CPU in float64 where the time is a scalar, else shaped to broadcast over the
    sample. da, ds, db: derivatives with respect to t."""

    t: Tensor
    a: Tensor
    s: Tensor
    da: Tensor
    ds: Tensor
    b: Tensor | float = 0.0
    db: Tensor | float = 0.0

    @cached_property
    def logsnr(self) -> Tensor:
        return 2 * (self.a.log() - self.s.log())

    @cached_property
    def sigma(self) -> Tensor:
        """Noise-to-signal ratio s/a, the time of EDM."""
        return self.s / self.a

    @cached_property
    def flow_time(self) -> Tensor:
        """s/(a+s) in [0, 1]: logSNR in a bounded form; equal to t for the linear flow."""
        return self.s / (self.a + self.s)


def expand(t: Tensor | float, like: Tensor) -> Tensor:
    """t with trailing axes added until it broadcasts over `like` ([], [B], [B, N] or full rank). Float64 if like is."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    t = torch.as_tensor(t, dtype=dtype, device=like.device)
    if t.ndim > like.ndim or any(m not in (1, n) for m, n in zip(t.shape, like.shape)):
        raise OrnsteinError(f"times of shape {tuple(t.shape)} do not fit a sample of shape {tuple(like.shape)}",
                            "Give a scalar, one time per sample [B], or leading axes of the sample.")  # fmt: skip
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def remembered(compute: Callable, size: int = 8192) -> Callable:
    """A pure function of (process, numbers ...), whose results are kept where the process is frozen and so cannot change."""
    known = lru_cache(maxsize=size)(compute)

    def ask(process: Process, *given: Any) -> Any:
        frozen = getattr(type(process), "__dataclass_params__", None)
        return (known if frozen and frozen.frozen else compute)(process, *given)

    return ask


def pick(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where for levels: a scalar condition, which lies on the host, chooses at once and on any device."""
    return (yes if bool(condition) else no) if condition.ndim == 0 else torch.where(condition, yes, no)


class Process(ABC):
    """A forward process. A subclass gives the scalar functions `coefficients` and `time`; nothing else is overridden.

    Where there is an end point y, z = x - b(t) y follows the same process without one, and is what solvers and loop carry:
    every solver runs on a bridge as it is. A Denoiser adds b y, found in its condition as 'endpoint', for the network.
    """

    t_min: float = 1e-3  # smallest time at which the network is asked
    t_max: float = 1.0  # the prior's time

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        """(a, s, da/dt, ds/dt), and b, db/dt where there is an end point y; elementwise in t."""

    @abstractmethod
    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which 2 log(a/s) equals `logsnr`, elementwise."""

    def at(self, t: Tensor | float, like: Tensor) -> Levels:
        """Coefficients at t, broadcast to the sample `like`."""
        if not isinstance(t, Tensor) or (t.ndim == 0 and not t.requires_grad):
            return _levels(self, float(t))
        t = expand(t, like)
        return Levels(t, *self.coefficients(t))

    def kernel(self, noise: Tensor) -> Tensor:
        """Unit normal noise as this process uses it: itself, save where the kernel is not Gaussian."""
        return noise

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """x_t from data, noise (same shape) and time."""
        L = self.at(t, x0)
        x = L.a * x0 + L.s * noise
        return x if y is None else x + L.b * y

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(x_s | x_t, x_0) for s < t, each broadcast to x; b y taken off of x."""
        old, data, variance, _ = posterior_weights(self.at(t, x), self.at(s, x))
        return old * x + data * x0, variance.clamp_min(0).sqrt()

    def prior(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The start of sampling from unit noise: s(t_max) noise + b(t_max) y."""
        L = self.at(self.t_max, noise)
        return L.s * noise if y is None else L.s * noise + L.b * y


def posterior_weights(now: Levels, to: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q(x_s | x_t, x_0), s < t: the weights of x_t and x_0 in its mean, and its variance; and that of q(x_t | x_s).

    With q(x_t | x_s) = N(A x_s, B): A = a_t/a_s, B = s_t^2 - A^2 s_s^2.
    """
    A = now.a / to.a
    B = now.s**2 - A**2 * to.s**2
    return A * to.s**2 / now.s**2, to.a * B / now.s**2, B * to.s**2 / now.s**2, B


def _scalar(process: Process, t: float) -> Levels:
    time = torch.tensor(t, dtype=torch.float64)
    return Levels(time, *process.coefficients(time))


_levels = remembered(_scalar)


def grid(process: Process, steps: int, rule: str | Sequence[float] | Callable = "uniform") -> Tensor:
    """steps + 1 decreasing times from t_max to 0, float64, on the CPU.

    rule: a part of grids/ by name ('uniform', 'karras:rho=5') or itself, or the times, whose number then counts.
    """
    if not isinstance(rule, str) and not callable(rule):
        times = torch.as_tensor(rule, dtype=torch.float64, device="cpu")
        if times.ndim != 1 or len(times) < 2 or not bool((times[1:] < times[:-1]).all()) or times[-1] < 0:
            raise OrnsteinError("the given times do not decrease to 0 or above", "Give at least two, noisiest first.")
        return times
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise OrnsteinError(f"steps={steps!r} is not a positive whole number", "Ask for at least 1 step.")
    return build("grids", rule)(process, steps)
