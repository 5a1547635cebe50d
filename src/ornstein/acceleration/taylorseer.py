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

from ornstein.acceleration.layers.forecast import lagrange, place, weighted, wide
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.store import check_store, pack, unpack
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
    full_at: tuple[int, ...] = ()  # evaluations that are full, instead of every N-th; those of the warm-up always are
    store: str = "plain"  # how outputs are kept: plain, half or host
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        check_store("taylorseer", self.store)
        if self.interval < 1 or self.order < 0 or self.warmup < 1:
            raise OrnsteinError(f"TaylorSeer(interval={self.interval}, order={self.order}, warmup={self.warmup})",
                                "interval and warmup are at least 1, order at least 0.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "branch" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        lead = next(v for v in streams.values() if isinstance(v, Tensor))
        if self.interval == 1 and not self.full_at:
            return run(streams)
        if site.name == next(iter(memory), site.name):
            note(run, clock, "taylorseer", memory, {"evaluations": 1})
        known = memory.get(site.name)
        if known is None or known["shape"] != tuple(lead.shape[1:]) or len(known["times"][0]) != len(lead):
            known = {"shape": tuple(lead.shape[1:]), "calls": 0, "full": 0, "values": [], "times": []}
        call, t = known["calls"], place(clock, lead)
        memory[site.name] = known | {"calls": call + 1}
        due = call in self.full_at if self.full_at else call - known["full"] >= self.interval
        if call >= self.warmup and not due:
            weights, values = self._weights(call - known["full"], t, known), unpack(known["values"])
            return {k: weighted(weights, [v[k] for v in values]) for k in values[0]}
        out, keep = run(streams), self.order + 1
        if self.faithful:
            values = pack(_differences(out, unpack(known["values"]), call - known["full"])[:keep], self.store)
        else:
            values = [pack(out, self.store), *known["values"]][:keep]
        memory[site.name] |= {"full": call, "values": values, "times": [t, *known["times"]][:keep]}
        return out

    def _weights(self, k: int, t: Tensor, known: dict) -> list:
        """What each stored tensor counts: k^i / i! for differences, Lagrange's [B] for the polynomial's values."""
        if self.faithful:
            return [k**i / math.factorial(i) for i in range(len(known["values"]))]
        return list(lagrange(t, torch.stack(known["times"], 1)).unbind(1))


def _differences(out: Streams, before: list[Streams], distance: int) -> list[Streams]:
    """D^0 = F, D^{i+1} = (D^i - the old D^i) / distance in evaluations."""
    values = [out]
    for old in before:
        now = values[-1]
        values.append({k: None if v is None else (wide(v) - wide(old[k])) / distance for k, v in now.items()})
    return values
