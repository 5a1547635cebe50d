"""What the network said about a sample, in any terms, derived when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import OrnsteinError, unknown
from .process import Levels, pick

__all__ = ["KINDS", "Output", "Prediction"]

KINDS = ("x0", "noise", "velocity", "v", "score")
DISCRETE = "logits"  # of the clean token, [B, ..., K]: what a network says about a discrete process


@dataclass
class Output:
    """A backbone's answer. `value`: same shape as the sample. `taps`: hidden states asked for by name. `aux`: losses of
    its own. `state`: what a next call may reuse. `extra`: further predictions (other scales, modalities)."""

    value: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    state: Any = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Prediction:
    """One given quantity about x_t; x0, noise, velocity (dx/dt), v (= a noise - s x0) and score follow from it lazily.

    x: the sample [B, ...]; levels: broadcast over it; value: of the given kind, same shape as x. Where the process has an
    end point y, x must come with b y taken off. `output` keeps the backbone's whole answer. For a discrete process x are
    tokens and the one kind is logits.
    """

    __slots__ = ("_known", "kind", "levels", "output", "x")

    def __init__(self, x: Tensor, levels: Levels, kind: str, value: Tensor, output: Output | None = None) -> None:
        if kind not in (*KINDS, DISCRETE):
            raise unknown("prediction kind", kind, (*KINDS, DISCRETE))
        self.x, self.levels, self.kind, self.output = x, levels, kind, output
        self._known: dict[str, Tensor] = {kind: value}

    @property
    def value(self) -> Tensor:
        """The quantity as it was given."""
        return self._known[self.kind]

    def like(self, kind: str, value: Tensor) -> Prediction:
        """The same sample and time with another word said: how guidance edits a prediction."""
        return Prediction(self.x, self.levels, kind, value, self.output)

    def take(self, index: Tensor) -> Prediction:
        """The chosen rows."""
        batch, L = len(self.x), self.levels
        levels = Levels(*(v[index] if isinstance(v, Tensor) and v.ndim and len(v) == batch > 1 else v
                          for v in (L.t, L.a, L.s, L.da, L.ds, L.b, L.db)))  # fmt: skip
        return Prediction(self.x[index], levels, self.kind, self.value[index])

    def get(self, kind: str) -> Tensor:
        """x0, noise, velocity, v or score, each [B, ...]."""
        if kind not in self._known and (kind == DISCRETE) != (self.kind == DISCRETE):
            raise OrnsteinError(f"the network says {self.kind}, from which {kind} does not follow",
                                "Logits are for discrete processes and their solvers.")  # fmt: skip
        if kind not in (*KINDS, DISCRETE):
            raise unknown("prediction kind", kind, KINDS)
        if kind not in self._known:
            self._known[kind] = getattr(self, f"_{kind}")()
        return self._known[kind]

    x0 = property(lambda self: self.get("x0"))
    noise = property(lambda self: self.get("noise"))
    velocity = property(lambda self: self.get("velocity"))
    v = property(lambda self: self.get("v"))
    score = property(lambda self: self.get("score"))
    logits = property(lambda self: self.get("logits"))

    def _x0(self) -> Tensor:
        L, x = self.levels, self.x
        if self.kind == "velocity":  # x = a x0 + s n, velocity = da x0 + ds n: solve for x0
            return (L.ds * x - L.s * self.value) / (L.a * L.ds - L.s * L.da)
        if self.kind == "v":
            return (L.a * x - L.s * self.value) / (L.a**2 + L.s**2)
        return (x - L.s * self.noise) / L.a

    def _noise(self) -> Tensor:
        L, x = self.levels, self.x
        if self.kind == "velocity":
            return (L.a * self.value - L.da * x) / (L.a * L.ds - L.s * L.da)
        if self.kind == "v":
            return (L.s * x + L.a * self.value) / (L.a**2 + L.s**2)
        if self.kind == "score":
            return -L.s * self.value
        return pick(L.s > 0, (x - L.a * self.x0) / L.s, torch.zeros((), dtype=x.dtype, device=x.device).expand_as(x))

    def _velocity(self) -> Tensor:
        L = self.levels
        return L.da * self.x0 + L.ds * self.noise

    def _v(self) -> Tensor:
        return self.levels.a * self.noise - self.levels.s * self.x0

    def _score(self) -> Tensor:
        return -self.noise / self.levels.s
