"""TaylorSeer: forecast what attention and mlp would say from what they said before.

From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers, Liu, Zou, Lyu, Chen, Zhang, 2025,
arXiv:2503.06923: F(x_{t-k}) = F(x_t) + sum_{i=1..m} D^i F(x_t) / (i! N^i) (-k)^i, at every branch output F before its
gate, with one full evaluation in N. The published D^i are backward differences, which a Taylor series does not fit (F
= k^2 gives k^2 - N k); the default here is Newton's polynomial through the last m + 1 full evaluations over their
true times, exact for polynomials of degree m. A forecast costs m + 1 scaled additions per branch; m + 1 outputs of
each branch are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["TaylorSeer"]


@dataclass(frozen=True)
class TaylorSeer:
    """Modulations and gates are always computed with the present time; only the branches are forecast."""

    interval: int = 3  # one full evaluation in so many; 1: never skip
    order: int = 1  # m; 0 reuses the last output
    warmup: int = 2  # full evaluations at the start (the paper: 2 or 3)
    faithful: bool = False  # the published series over whole evaluations, instead of Newton's over times
    roles: tuple[str, ...] = ("attention", "cross_attention", "mlp")  # of the branches to forecast
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.interval < 1 or self.order < 0 or self.warmup < 1:
            raise OrnsteinError(f"TaylorSeer(interval={self.interval}, order={self.order}, warmup={self.warmup})",
                                "interval and warmup are at least 1, order at least 0.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "branch" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        lead = next(v for v in streams.values() if isinstance(v, Tensor))
        if self.interval == 1:
            return run(streams)
        if site.name == next(iter(memory), site.name):
            note(run, clock, "taylorseer", memory, {"evaluations": 1})
        known = memory.get(site.name)
        if known is None or known["shape"] != tuple(lead.shape[1:]) or len(known["times"][0]) != len(lead):
            known = {"shape": tuple(lead.shape[1:]), "calls": 0, "full": 0, "values": [], "times": []}
        call, t = known["calls"], _time(clock, lead)
        memory[site.name] = known | {"calls": call + 1}
        if call >= self.warmup and call - known["full"] < self.interval:
            weights = self._weights(call - known["full"], t, known)
            return {k: _sum(weights, [v[k] for v in known["values"]]) for k in known["values"][0]}
        out = run(streams)
        values = _differences(out, known, call - known["full"]) if self.faithful else [out, *known["values"]]
        keep = self.order + 1
        memory[site.name] |= {"full": call, "values": values[:keep], "times": [t, *known["times"]][:keep]}
        return out

    def _weights(self, k: int, t: Tensor, known: dict) -> list:
        """What each stored tensor counts: k^i / i! for differences, Lagrange's [B] for the polynomial's values."""
        if self.faithful:
            return [k**i / math.factorial(i) for i in range(len(known["values"]))]
        return list(_lagrange(t, torch.stack(known["times"], 1)).unbind(1))


def _time(clock: Clock, lead: Tensor) -> Tensor:
    """The time of each row [B]; where it differs within a sample, its mean."""
    t = torch.as_tensor(clock.t, device=lead.device).to(torch.float64)
    return (t.flatten(1).mean(1) if t.ndim > 1 else t).expand(len(lead))


def _lagrange(t: Tensor, nodes: Tensor) -> Tensor:
    """Weights [B, n] at t [B] of values at nodes [B, n], newest first. A node at a newer one's time does not count:
    solvers may ask twice for one time."""
    n = nodes.shape[1]
    counts = [torch.stack([nodes[:, j] != nodes[:, i] for i in range(j)], 1).all(1) if j else t == t for j in range(n)]
    out = []
    for j in range(n):
        weight = counts[j].to(nodes)
        for i in range(n):
            if i != j:
                apart = nodes[:, j] - nodes[:, i]
                factor = (t - nodes[:, i]) / torch.where(apart == 0, 1, apart)
                weight = weight * torch.where(counts[i], factor, 1)
        out.append(weight)
    return torch.stack(out, 1)


def _differences(out: Streams, known: dict, distance: int) -> list[Streams]:
    """D^0 = F, D^{i+1} = (D^i - the old D^i) / distance in evaluations."""
    values = [out]
    for old in known["values"]:
        now = values[-1]
        values.append({k: None if v is None else (_wide(v) - _wide(old[k])) / distance for k, v in now.items()})
    return values


def _sum(weights: Sequence, values: Sequence[Tensor | None]) -> Tensor | None:
    if values[0] is None:
        return None
    total: Any = 0.0
    for weight, value in zip(weights, values):
        if isinstance(weight, Tensor):
            weight = weight.to(_wide(value).dtype).view(-1, *[1] * (value.ndim - 1))
        total = total + weight * _wide(value)
    return total.to(values[0].dtype)


def _wide(value: Tensor) -> Tensor:
    """At least float32: differences cancel."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
