"""Forward processes: x_t = a(t) x_0 + b(t) y + s(t) noise, with t = 0 at the data and t = t_max at the prior.

`Process.at` is the only place of the library that broadcasts a time over a sample: t may be a scalar, one per sample
[B], one per frame or token [B, N], or already of the rank of x. logSNR = 2 log(a/s) is the canonical noise coordinate.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import OrnsteinError, unknown

__all__ = ["Levels", "Process", "expand", "grid"]


@dataclass(frozen=True)
class Levels:
    """The coefficients at a time, shaped to broadcast over the sample. da, ds, db: derivatives with respect to t."""

    t: Tensor
    a: Tensor
    s: Tensor
    da: Tensor
    ds: Tensor
    b: Tensor | float = 0.0
    db: Tensor | float = 0.0

    @property
    def logsnr(self) -> Tensor:
        return 2 * (self.a.log() - self.s.log())

    @property
    def sigma(self) -> Tensor:
        """Noise-to-signal ratio s/a, the time of EDM."""
        return self.s / self.a

    @property
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


class Process(ABC):
    """A forward process. A subclass gives the scalar functions `coefficients` and `time`; nothing else is overridden
    except, for processes with an end point y, `prior`."""

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
        t = expand(t, like)
        return Levels(t, *self.coefficients(t))

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """x_t from data, noise (same shape) and time."""
        L = self.at(t, x0)
        x = L.a * x0 + L.s * noise
        return x if y is None else x + L.b * y

    def prior(self, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The start of sampling from unit noise: s(t_max) noise + b(t_max) y."""
        L = self.at(self.t_max, noise)
        return L.s * noise if y is None else L.s * noise + L.b * y


def grid(process: Process, steps: int, rule: str | Sequence[float] = "uniform", rho: float = 7.0,
         shift: float = 1.0) -> Tensor:  # fmt: skip
    """steps + 1 decreasing times from t_max to 0, float64.

    rule: 'uniform' in t; 'logsnr' uniform in logSNR then 0; 'karras' sigma^(1/rho) uniform then 0 (Karras et al. 2022,
    eq. 5); 'quadratic' in t^2; or the times themselves. shift: resolution shift of sigma (Esser et al. 2024), 1 = none.
    """
    if not isinstance(rule, str):
        times = torch.as_tensor(rule, dtype=torch.float64)
        if times.ndim != 1 or len(times) < 2 or not bool((times[1:] < times[:-1]).all()) or times[-1] < 0:
            raise OrnsteinError("the given times do not decrease to 0 or above", "Give at least two, noisiest first.")
        return times
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise OrnsteinError(f"steps={steps!r} is not a positive whole number", "Ask for at least 1 step.")
    n, hi, lo = steps, process.t_max, process.t_min
    if rule in ("uniform", "quadratic"):
        u = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        times = hi * (u if rule == "uniform" else u**2)
    elif rule in ("logsnr", "karras"):
        ends = torch.tensor([hi, lo], dtype=torch.float64)
        a, s, *_ = process.coefficients(ends)
        sigma = (s / a.clamp_min(1e-4)).clamp(max=1e3)
        u = torch.linspace(0, 1, n, dtype=torch.float64)
        if rule == "karras":
            hi_r, lo_r = (sigma ** (1 / rho)).tolist()
            sigma = (hi_r + u * (lo_r - hi_r)) ** rho
        else:
            sigma = torch.exp(math.log(sigma[0]) + u * math.log(sigma[1] / sigma[0]))
        times = torch.cat([process.time(-2 * sigma.log()).clamp(max=hi), torch.zeros(1, dtype=torch.float64)])
        times[0] = hi
    else:
        raise unknown("grid", rule, ("uniform", "quadratic", "logsnr", "karras"))
    return times if shift == 1.0 else _shifted(process, times, shift)


def _shifted(process: Process, times: Tensor, shift: float) -> Tensor:
    """Esser et al. 2024, eq. 23, on flow time over its largest value: sigma times `shift`, but the prior stays where it is."""
    a, s, *_ = process.coefficients(times[:-1])
    tau = s / (a + s)
    u = tau / tau[0]
    tau = tau[0] * shift * u / (1 + (shift - 1) * u)
    return torch.cat([times[:1], process.time(2 * ((1 - tau) / tau).log())[1:], times[-1:]])
