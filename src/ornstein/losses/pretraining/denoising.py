"""Denoising: the mean squared error of the network's answer at a random time, in any terms and under any weight.

Denoising Diffusion Probabilistic Models, Ho et al., 2020, arXiv:2006.11239 (eq. 14: noise, uniform weight); v:
Salimans, Ho, 2022, arXiv:2202.00512; velocity: Lipman et al., 2022, arXiv:2210.02747 (eq. 23); EDM's law and weight:
Karras et al., 2022, arXiv:2206.00364 (table 1); min-SNR: Hang et al., 2023, arXiv:2303.09556 (section 3.4).

    loss = E_t w_t |target(said) - target(truth)|^2,   |target error|^2 = k_t |x0 error|^2,
    k = 1 (x0), a^2/s^2 (noise), ((a^2 + s^2)/s)^2 (v), ((a ds - s da)/s)^2 (velocity)

'uniform' is w = 1 on the target's own error. The other weights are laws of the x0 error, divided by k: then the target
changes the arithmetic and not the loss. One forward and one backward pass of the network per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.process import Levels, Process
from ornstein.losses.layers.times import TIMES

__all__ = ["Denoising", "TARGETS", "WEIGHTS"]

SMALL = 1e-4  # least a: where nothing of the data is left, ratios with a have their limits

TARGETS: dict[str, Callable[[Levels], Tensor]] = {  # k
    "x0": lambda L: torch.ones_like(L.s),
    "noise": lambda L: (L.a.clamp_min(SMALL) / L.s) ** 2,
    "v": lambda L: ((L.a**2 + L.s**2) / L.s) ** 2,
    "velocity": lambda L: ((L.a * L.ds - L.s * L.da) / L.s) ** 2,
}
WEIGHTS: dict[str, tuple[Callable[[Levels, float], Tensor] | None, float]] = {  # of the x0 error; usual constant
    "uniform": (None, 0.0),
    "min-snr": (lambda L, gamma: (L.a.clamp_min(SMALL) / L.s).square().clamp(max=gamma), 5.0),  # gamma
    "edm": (lambda L, d: (L.s**2 + (d * L.a) ** 2) / (d * L.s) ** 2, 0.5),  # d: standard deviation of the data
    "velocity": (lambda L, least: 1 / L.s.clamp_min(least) ** 2, 0.05),  # as the linear flow's velocity, down to this s
}


@dataclass(frozen=True)
class Denoising:
    """Called as loss(denoiser, batch, generator, step) -> {'loss', 'denoising', and the auxiliary losses' entries}."""

    target: str = "velocity"  # the terms in which the error is measured: x0, noise, velocity, v
    weight: str = "uniform"  # uniform, min-snr, edm, velocity
    constant: float | None = None  # of the weight; None: gamma 5 of min-snr, sigma_data 0.5 of edm, least s 0.05
    time: str | Callable = "uniform"  # uniform, logit-normal, edm, or a law of losses/layers/times.py
    drop_condition: float = 0.0  # share of samples trained with the null condition, for guidance
    auxiliaries: Sequence[Any] = ()  # objects with taps and __call__(output, batch, step) -> dict of scalars

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)
        if self.weight not in WEIGHTS:
            raise unknown("loss weight", self.weight, WEIGHTS)
        if isinstance(self.time, str) and self.time not in TIMES:
            raise unknown("law of time", self.time, TIMES)
        if not 0 <= self.drop_condition <= 1:
            raise OrnsteinError(f"drop_condition={self.drop_condition} is no share", "Give 0 to 1.")
        if self.constant is not None and (not self.constant > 0 or self.weight == "uniform"):
            remedy = "Leave it out." if self.weight == "uniform" else "Give more than 0."
            raise OrnsteinError(f"constant={self.constant} makes no sense for the weight '{self.weight}'", remedy)

    def __call__(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None = None,
                 step: int = 0) -> dict[str, Tensor]:  # fmt: skip
        """batch: 'x0' [B, ...]; 'cond'; and what is random, drawn from the generator where it is not there: 'u' [B] in
        (0, 1) or 't' [B], 'noise' like x0, 'drop' [B] in (0, 1)."""
        x0 = batch["x0"]
        noise = batch["noise"] if "noise" in batch else torch.randn(x0.shape, generator=generator).to(x0)
        t = batch["t"] if "t" in batch else self.times(_uniform(batch, "u", generator), denoiser.process)
        cond = self.dropped(denoiser, batch, generator)
        taps = tuple(name for a in self.auxiliaries for name in a.taps)
        x = denoiser.process.corrupt(x0, noise, t)
        said = denoiser(x, t, cond, taps=taps) if taps else denoiser(x, t, cond)
        losses = {"denoising": self.per_sample(said, x0, denoiser.process.kernel(noise)).mean()}
        losses |= {f"aux.{k}": v for k, v in getattr(said.output, "aux", {}).items()}  # the network's own
        for auxiliary in self.auxiliaries:
            found = auxiliary(said.output, batch, step)
            twice = found.keys() & {"loss", *losses}
            if twice:
                raise OrnsteinError(f"two losses are called {', '.join(sorted(twice))}", "Rename one.")
            losses |= found
        return {"loss": sum(losses.values()), **losses}

    def times(self, u: Tensor, process: Process) -> Tensor:
        """The law of time at uniform numbers u [B]: t [B]."""
        return (TIMES[self.time] if isinstance(self.time, str) else self.time)(u, process)

    def per_sample(self, said: Any, x0: Tensor, noise: Tensor) -> Tensor:
        """Weighted squared error [B], mean over each sample's elements."""
        L = said.levels
        truth = {"x0": lambda: x0, "noise": lambda: noise, "velocity": lambda: L.da * x0 + L.ds * noise,
                 "v": lambda: L.a * noise - L.s * x0}[self.target]()  # fmt: skip
        error = said.get(self.target) - truth
        error = (error.float() if error.dtype != torch.float64 else error).square()
        law, usual = WEIGHTS[self.weight]
        if law is not None:
            error = error * (law(L, usual if self.constant is None else self.constant) / TARGETS[self.target](L))
        return error.flatten(1).mean(1)

    def dropped(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None) -> Any:
        """The condition with a random share of rows replaced by the null one (Ho, Salimans, 2022, algorithm 1)."""
        cond = batch.get("cond")
        if not self.drop_condition or cond is None:
            return cond
        gone = _uniform(batch, "drop", generator) < self.drop_condition
        null = denoiser.unconditional(cond, len(gone))
        return {k: torch.where(gone.view(-1, *[1] * (v.ndim - 1)), null[k].to(v), v) for k, v in cond.items()}


def _uniform(batch: dict[str, Any], name: str, generator: torch.Generator | None) -> Tensor:
    """The batch's uniform numbers of that name [B], else fresh ones."""
    x0 = batch["x0"]
    return batch[name] if name in batch else torch.rand(len(x0), generator=generator).to(x0.device)
