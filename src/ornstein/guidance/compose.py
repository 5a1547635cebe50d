"""Composition: several conditions at once, each with a weight of its own; what is not wanted has a negative one.

Compositional Visual Generation with Composable Diffusion Models, Nan Liu, Shuang Li, Yilun Du, Antonio Torralba, Joshua B.
Tenenbaum, 2022, arXiv:2206.01714 (eq. 11 and 13): with conditions c_i,

    eps = eps(x, null) + sum_i w_i (eps(x, c_i) - eps(x, null)),

the score of p(x) prod_i (p(x|c_i) / p(x))^w_i were noise absent, and at every noise level where the conditions are about
independent parts of x. Costs one call for each condition with a weight, and one for null unless the weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import gather

from .layers.contrast import branch
from .layers.pair import null

__all__ = ["Compose"]


@dataclass(frozen=True, eq=False)
class Compose:
    """The run's condition with the weight `scale`, and others. Branches: 'cond' as it came, 'concept1', ..., 'null'."""

    scale: float = 1.0  # weight of the run's own condition
    others: Sequence[dict[str, Any]] = ()  # further conditions, of one row each, for all samples
    weights: Sequence[float] = ()  # of the others; negative: away from it; 0: never asked

    def __post_init__(self) -> None:
        if len(self.others) != len(self.weights):
            raise OrnsteinError(f"{len(self.weights)} weights for {len(self.others)} other conditions",
                                "Give each of them a weight.")  # fmt: skip
        for k, other in enumerate(self.others, 1):
            for name, value in other.items():
                if isinstance(value, Tensor) and len(value) != 1:
                    raise OrnsteinError(f"'{name}' of other condition {k} has {len(value)} rows",
                                        "Give one row for all samples.")  # fmt: skip

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        said = denoiser(x, t, cond, clock)
        asked = [(k, float(w)) for k, w in enumerate(self.weights) if w != 0]
        rest = 1 - self.scale - sum(w for _, w in asked)
        if self.scale == 1 and not asked:
            return said
        kind = said.kind  # every kind gives the same: they are affine in each other, and the weights sum to 1
        value = self.scale * said.value
        if abs(rest) > 1e-9:
            value = value + rest * null(denoiser, x, t, cond, clock).get(kind)
        for k, weight in asked:
            other = gather(self.others[k], torch.zeros(len(x), dtype=torch.long), 1)
            value = value + weight * denoiser(x, t, other, branch(clock, f"concept{k + 1}")).get(kind)
        return said.like(kind, value)
