"""A network made into a denoiser: backbone + process + what it predicts + how it wants to be told the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .clock import Clock
from .errors import OrnsteinError, unknown
from .prediction import DISCRETE, KINDS, Output, Prediction
from .process import Levels, Process
from .seam import calling

__all__ = ["Denoiser", "Denoises", "Guidance", "Guided", "guide"]

TIMES: dict[str, Callable[[Levels], Tensor]] = {
    "flow": lambda L: L.flow_time,  # in [0, 1]
    "logsnr": lambda L: L.logsnr,
    "edm": lambda L: L.sigma.log() / 4,  # Karras et al. 2022, table 1
    "t": lambda L: L.t,
}


ENDPOINT = "endpoint"  # the condition that is y of the process, [B, ...] like x


class Denoises(Protocol):
    """Anything that answers for a noisy sample: a network, an exact formula, or either under guidance."""

    process: Process

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None) -> Prediction: ...


@dataclass(frozen=True)
class Denoiser:
    """backbone(x, time, cond) -> Tensor or Output, read as `predicts`.

    x: [B, ...]; t: [] or [B] (or leading axes); cond: dict of tensors [B, ...] or None. A condition named 'endpoint' is
    the process's y: x is then the sample less b y, and the network sees the sum.
    """

    backbone: Callable
    process: Process
    predicts: str = "velocity"  # x0, noise, velocity, v, score, or 'edm': F under EDM's preconditioning
    time: str | Callable[[Levels], Tensor] = "flow"  # what the backbone is told: flow, logsnr, edm, t or a function
    sigma_data: float = 0.5  # standard deviation of the data, for 'edm'
    null: Callable[[Any, int], Any] | None = None  # (cond, batch) -> the unconditional condition

    def __post_init__(self) -> None:
        if self.predicts not in (*KINDS, DISCRETE, "edm"):
            raise unknown("prediction kind", self.predicts, (*KINDS, DISCRETE, "edm"))
        if isinstance(self.time, str) and self.time not in TIMES:
            raise unknown("time embedding", self.time, TIMES)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None,
                 taps: Sequence[str] = ()) -> Prediction:  # fmt: skip
        L = self.process.at(t, x)
        told = (TIMES[self.time] if isinstance(self.time, str) else self.time)(L)
        if told.ndim == 0:  # filled in, so that nothing waits for a copy
            kind = torch.float64 if x.dtype == torch.float64 else torch.float32
            told = torch.full((len(x),), float(told), dtype=kind, device=x.device)
        else:
            told = told.flatten(1)  # [B or 1, K]; K > 1 where the time differs by frame or token
            told = (told[:, 0] if told.shape[1] == 1 else told).expand(len(x), *told.shape[1:][told.shape[1] == 1 :])
        skip, scale, inner = self._precondition(L)
        y, seen = cond.get(ENDPOINT) if isinstance(cond, dict) else None, x
        if y is not None:
            seen, cond = x + L.b * y, {k: v for k, v in cond.items() if k != ENDPOINT}
        with calling(clock):
            answer = self.backbone(seen if inner is None else inner * seen, told, cond, **({"taps": taps} if taps else {}))
        out = answer if isinstance(answer, Output) else Output(answer)
        value = out.value.to(x.dtype) if x.is_floating_point() else out.value
        if y is not None and self.predicts == "velocity":
            value = value - L.db * y
        if skip is None:
            return Prediction(x, L, self.predicts, value, out)
        return Prediction(x, L, "x0", skip * x + scale * value, out)

    def _precondition(self, L: Levels) -> tuple[Any, Any, Any]:
        """EDM (Karras et al. 2022, table 1), written for x_t = a (x_0 + sigma noise)."""
        if self.predicts != "edm":
            return None, None, None
        d = self.sigma_data
        r = (L.s**2 + d**2 * L.a**2).sqrt()  # not by way of sigma, which is infinite where a = 0
        return d**2 * L.a / r**2, L.s * d / r, 1 / r

    def unconditional(self, cond: Any, batch: int) -> Any:
        """The model's own null condition, for guidance and condition dropout."""
        if self.null is None:
            what = "this denoiser has no unconditional condition"
            raise OrnsteinError(what, "Give Denoiser(null=...), or drop the guidance.")
        null = self.null(cond, batch)
        return {**null, ENDPOINT: cond[ENDPOINT]} if isinstance(cond, dict) and ENDPOINT in cond else null


class Guidance(Protocol):
    """A part of guidance/: what to answer instead, given the denoiser that it wraps."""

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction: ...


@dataclass(frozen=True)
class Guided:
    """A denoiser under one guidance: again a denoiser."""

    denoiser: Any
    rule: Guidance

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None) -> Prediction:
        return self.rule.predict(self.denoiser, x, t, cond, clock or Clock(t=t, ids=tuple(range(len(x)))))

    def unconditional(self, cond: Any, batch: int) -> Any:
        return self.denoiser.unconditional(cond, batch)


def guide(denoiser: Denoises, *rules: Guidance) -> Denoises:
    """Wrap, the last rule outermost."""
    for rule in rules:
        denoiser = Guided(denoiser, rule)
    return denoiser


