"""Denoising: the mean squared error of the network's answer at a random time, in any terms and under any weight.

Denoising Diffusion Probabilistic Models, Ho et al., 2020, arXiv:2006.11239 (eq. 14: noise, uniform weight); v: Salimans, Ho, 2022,
arXiv:2202.00512; velocity: Lipman et al., 2022, arXiv:2210.02747 (eq. 23); EDM's law and weight: Karras et al., 2022,
arXiv:2206.00364 (table 1); min-SNR: Hang et al., 2023, arXiv:2303.09556 (eq. 8, written for the target at hand).
One forward and one backward pass of the network per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import unknown
from ornstein.core.process import Levels
from ornstein.losses.layers.times import TIMES
from torch import Tensor

__all__ = ["Denoising", "WEIGHTS"]


def _min_snr(L: Levels, target: str, gamma: float) -> Tensor:
    snr = L.logsnr.exp()
    base = {"x0": torch.ones_like(snr), "noise": 1 / snr, "v": 1 / (snr + 1), "velocity": 1 / (snr + 1)}[target]
    return base * snr.clamp(max=gamma)


WEIGHTS: dict[str, Callable[[Levels, str, float], Tensor]] = {
    "uniform": lambda L, target, g: torch.ones_like(L.s),
    "min-snr": _min_snr,
    "edm": lambda L, target, g: (L.sigma**2 + g**2) / (L.sigma * g) ** 2,  # on x0; g is the data's standard deviation
    "velocity": lambda L, target, g: 1 / L.s.clamp_min(g) ** 2,  # an error of x0 counted as the flow's velocity error
}


@dataclass(frozen=True)
class Denoising:
    """Called as loss(denoiser, batch, generator, step) -> {'loss', 'denoising', and one entry per auxiliary loss}."""

    target: str = "velocity"  # the terms in which the error is measured: x0, noise, velocity, v
    weight: str = "uniform"  # uniform, min-snr, edm (target x0), velocity (target x0)
    constant: float = 5.0  # gamma of min-snr; sigma_data of edm (0.5); the smallest s of 'velocity' (0.05)
    time: str | Callable = "uniform"  # uniform, logit-normal, edm, or a law of losses/layers/times.py
    drop_condition: float = 0.0  # share of samples trained with the null condition, for guidance
    auxiliaries: Sequence[Any] = ()  # objects with taps, weight and __call__(output, batch, step) -> dict of scalars

    def __post_init__(self) -> None:
        if self.target not in ("x0", "noise", "velocity", "v"):
            raise unknown("target", self.target, ("x0", "noise", "velocity", "v"))
        if self.weight not in WEIGHTS:
            raise unknown("loss weight", self.weight, WEIGHTS)
        if isinstance(self.time, str) and self.time not in TIMES:
            raise unknown("law of time", self.time, TIMES)

    def __call__(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None = None,
                 step: int = 0) -> dict[str, Tensor]:  # fmt: skip
        x0 = batch["x0"]
        u = batch.get("u", None)
        u = torch.rand(len(x0), generator=generator).to(x0.device) if u is None else u
        noise = batch.get("noise", None)
        noise = torch.randn(x0.shape, generator=generator).to(x0) if noise is None else noise
        t = batch["t"] if "t" in batch else (TIMES[self.time] if isinstance(self.time, str) else self.time)(u, denoiser.process)
        cond = self.dropped(denoiser, batch.get("cond"), len(x0), generator)
        taps = tuple(name for a in self.auxiliaries for name in a.taps)
        x = denoiser.process.corrupt(x0, noise, t)
        said = denoiser(x, t, cond, taps=taps) if taps else denoiser(x, t, cond)
        losses = {"denoising": self.per_sample(said, x0, noise).mean()}
        for auxiliary in self.auxiliaries:
            losses |= auxiliary(said.output, batch, step)
        return {"loss": sum(losses.values()), **losses}

    def per_sample(self, said: Any, x0: Tensor, noise: Tensor) -> Tensor:
        """Weighted squared error [B], mean over each sample's elements."""
        L = said.levels
        truth = {"x0": lambda: x0, "noise": lambda: noise, "velocity": lambda: L.da * x0 + L.ds * noise,
                 "v": lambda: L.a * noise - L.s * x0}[self.target]()  # fmt: skip
        error = (said.get(self.target) - truth).float().square() * WEIGHTS[self.weight](L, self.target, self.constant)
        return error.flatten(1).mean(1)

    def dropped(self, denoiser: Denoiser, cond: Any, batch: int, generator: torch.Generator | None) -> Any:
        """The condition with a random share of rows replaced by the null condition (Ho, Salimans, 2022, algorithm 1)."""
        if not self.drop_condition or cond is None:
            return cond
        gone = torch.rand(batch, generator=generator) < self.drop_condition
        null = denoiser.unconditional(cond, batch)
        return {k: torch.where(gone.to(v.device).reshape(-1, *[1] * (v.ndim - 1)), null[k].to(v.dtype), v) for k, v in cond.items()}
