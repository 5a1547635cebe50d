"""PNDM and PLMS: linear multistep and Runge-Kutta formulas on the noise, carried by the transfer map of DDIM.

Pseudo Numerical Methods for Diffusion Models on Manifolds, Liu, Ren, Lin, Zhao, 2022, arXiv:2202.09778 (eq. 11 to 13):
x_s = phi(x_t, u, t, s), with phi DDIM's step and u the mean of the noise over the step by Adams-Bashforth, (55 e_t -
59 e_1 + 37 e_2 - 9 e_3)/24 on equal steps. Warm-up: pseudo Runge-Kutta (F-PNDM; e = (e1 + 2 e2 + 2 e3 + e4)/6), pseudo
improved Euler (S-PNDM and PLMS: e = (e1 + e2)/2), or what formula the past allows (iPNDM: Fast Sampling of Diffusion
Models with Exponential Integrator, Zhang, Chen, 2022, arXiv:2204.13902, appendix H). Costs one network call per step,
and for the warm-up three more in each of terms - 1 steps ('rk'), one more in the first ('improved'), or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process

from .layers.adams import adams, blank, blend, constant, means, transfer

__all__ = ["PNDM"]

START = {"low": 2, "improved": 3, "rk": 4}  # the order to which each warm-up lets the whole rise


@dataclass(frozen=True)
class PNDM:
    """Remembers the last terms - 1 noises [B, ...] and their flow times, one per row."""

    terms: int = 4  # noises in the formula, 1 to 4: its order on its own (the publication's is 4)
    warmup: str = "low"  # 'low' (orders), 'improved' or 'rk': how the first steps are made
    faithful: bool = False  # True: coefficients of equal steps and midpoints in t on any grid, as published

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 4:
            raise OrnsteinError(f"terms={self.terms} of PNDM", "Take 1, 2, 3 or 4.")
        if self.warmup not in START:
            raise unknown("warm-up", self.warmup, START)

    @property
    def order(self) -> int:
        """Of the global error on any grid. The constant coefficients have order 1 there, and at most 2 on equal steps."""
        return 1 if self.faithful else min(self.terms, START[self.warmup])

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"past": ()}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        said = denoise(x, t)
        if blank(now):
            return transfer(said, to), memory
        known = ((said.noise, now.flow_time), *memory["past"])
        weights, values = self._formula(known, to), [e for e, _ in known]
        if len(known) <= {"low": 0, "improved": min(1, self.terms - 1), "rk": self.terms - 1}[self.warmup]:
            weights, values = self._warm(denoise, process, said, to, weights, values)
        return transfer(said, to, weights, values), {"past": known[: self.terms - 1]}

    def _formula(self, known: tuple, to: Levels) -> Sequence:
        """Adams-Bashforth's weights of the noises that are known, newest first."""
        return constant(len(known)) if self.faithful else adams([tau for _, tau in known], to.flow_time)[0]

    def _warm(self, denoise: Evaluate, process: Process, said: Prediction, to: Levels, weights: Sequence,
              values: list) -> tuple[Sequence, Sequence]:  # fmt: skip
        """Runge-Kutta's weights and noises; those given where the step goes to the data, where there is no noise."""
        now = said.levels
        if to.s.ndim == 0 and float(to.s) == 0:
            return weights, values
        if self.warmup == "improved":
            new = [said.noise, denoise(transfer(said, to), self._time(to)).noise]
            ends = (now.flow_time, to.flow_time)
            new_weights = (0.5, 0.5) if self.faithful else means(ends, *ends)
        else:
            halfway = (now.t + to.t) / 2
            if not self.faithful:
                exact = process.time(-2 * ((now.sigma + to.sigma) / 2).log())
                halfway = torch.where(torch.isfinite(now.sigma), exact, halfway)
            mid = process.at(halfway if halfway.ndim == 0 else halfway.flatten(), said.x)
            second = denoise(transfer(said, mid), self._time(mid)).noise
            third = denoise(transfer(said, mid, (1.0,), (second,)), self._time(mid)).noise
            fourth = denoise(transfer(said, to, (1.0,), (third,)), self._time(to)).noise
            new, new_weights = [said.noise, second, third, fourth], (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        if to.s.ndim == 0:
            return new_weights, new
        return (1.0,), (torch.where(to.s > 0, blend(new_weights, new), blend(weights, values)),)

    @staticmethod
    def _time(at: Levels) -> Tensor:
        return at.t if at.t.ndim == 0 else at.t.flatten(1)[:, 0]
