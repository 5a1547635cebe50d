"""Ensembles: the answers of several denoisers, weighted by constants, by noise level, by region or by a trained gate.

Ensembling Diffusion Models via Adaptive Feature Aggregation, Cong Wang, Kuan Tian, Yonghang Guan, Fei Shen, Zhiwei
Jiang, Qing Gu, Jun Zhang, 2024, arXiv:2405.17082. Its aggregator A, a softmax over the models at each place, depends on
what they say, the place and the time; frozen models D_i, of which A alone is trained by the denoising loss:

    D(x_t) = sum_i A_i(x_t, D_1, ..., D_N, t) * D_i(x_t),   sum_i A_i = 1 at each place.

This is the version at the output; the publication's merges the features after each block, for models of one
architecture, where here any will do. Costs one call of each denoiser that has a weight, and the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

from .layers.gate import Gate
from .layers.mix import ask, mixed

__all__ = ["Ensemble", "Gate"]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Weights of the others by number, tensor that broadcasts over one sample (a mask [H, W]), or function of the level.

    A function gets flow time s/(a+s), 1 at the noise, [] or of a shape that broadcasts over the sample, and gives the
    like. The wrapped denoiser has what is left to 1. Where the gate is to be trained, its parameters are all that
    requires a gradient, and the guided denoiser is what the loss is given.
    """

    others: Sequence[Denoises] = ()  # over the process of the wrapped denoiser, of any kinds of prediction
    weights: Sequence[float | Tensor | Callable[[Tensor], Tensor]] = ()  # one for each of the others; (): 0, never asked
    gate: Callable[[Tensor, Sequence[Tensor], Tensor], Tensor] | None = None  # instead of weights; as Gate, for all

    def __post_init__(self) -> None:
        if self.weights and (self.gate is not None or len(self.weights) != len(self.others)):
            what = f"{len(self.weights)} weights{' and a gate' if self.gate is not None else ''} for {len(self.others)} others"
            raise OrnsteinError(what, "Give each of the others a weight, or a gate and no weights.")
        if self.gate is not None and not self.others:
            raise OrnsteinError("a gate with nothing to choose from", "Give others.")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...], images [B, C, H, W] for the gate; t: [], [B] or leading axes; cond: dict of tensors or None."""
        everyone = (denoiser, *self.others)
        if self.gate is not None:
            return self._gated(everyone, x, t, cond, clock)
        level = denoiser.process.at(t, x).flow_time
        others = [w(level) if callable(w) else w.to(x) if isinstance(w, Tensor) else float(w) for w in self.weights]
        return mixed(everyone, [1 - sum(others), *others], x, t, cond, clock)

    def _gated(self, everyone: Sequence[Denoises], x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        said = [ask(everyone, k, x, t, cond, clock) for k in range(len(everyone))]
        level = said[0].levels.flow_time
        place = level.flatten(1).mean(1) if level.ndim else torch.full((len(x),), float(level), device=x.device)
        weights = self.gate(x, [s.x0 for s in said], place.expand(len(x)))
        kind = said[0].kind
        return said[0].like(kind, sum(w * s.get(kind) for w, s in zip(weights, said)))
