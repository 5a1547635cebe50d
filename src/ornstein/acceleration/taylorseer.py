"""TaylorSeer: forecast what attention and mlp would say from what they said before.

From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers, Liu, Zou, Lyu, Chen, Zhang, 2025,
arXiv:2503.06923: F(x_{t-k}) = F(x_t) + sum_{i=1..m} D^i F(x_t) / (i! N^i) (-k)^i, at every branch output F before its
gate, with one full evaluation in N. The published D^i are backward differences, which a Taylor series does not fit (F
= k^2 gives k^2 - N k); the default here is Newton's polynomial through the last m + 1 full evaluations over their
true times, exact for polynomials of degree m. F may also be what a block adds to its streams, or what all blocks of a
stage add together. A forecast costs m + 1 scaled additions per place, of which m + 1 values are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.forecast import moment, shared, weighted, wide
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import carry, lead, minus, plus, trunk
from ornstein.acceleration.layers.store import check_store, pack, unpack
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["TaylorSeer"]

GRAINS = ("branch", "block", "trunk")


@dataclass(frozen=True)
class TaylorSeer:
    """Modulations and gates are always computed with the present time; only the branches are forecast. With the coarser
    grains a skipping evaluation computes no block at all, and what is forecast is added to the present streams."""

    interval: int = 3  # one full evaluation in so many; 1: never skip
    order: int = 1  # m; 0 reuses the last output
    warmup: int = 2  # full evaluations at the start (the paper: 2 or 3)
    faithful: bool = False  # the published series over whole evaluations, instead of Newton's over times
    roles: tuple[str, ...] = ("attention", "cross_attention", "mlp")  # of the branches to forecast
    full_at: tuple[int, ...] = ()  # evaluations that are full, instead of every N-th; those of the warm-up always are
    store: str = "plain"  # how values are kept: plain, half or host
    grain: str = "branch"  # of what is forecast: each 'branch' (the paper), each 'block', or the 'trunk' of a stage's blocks
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        check_store("taylorseer", self.store)
        if self.grain not in GRAINS:
            raise unknown("grain of taylorseer", self.grain, GRAINS)
        if self.interval < 1 or self.order < 0 or self.warmup < 1:
            raise OrnsteinError(f"TaylorSeer(interval={self.interval}, order={self.order}, warmup={self.warmup})",
                                "interval and warmup are at least 1, order at least 0.")  # fmt: skip

    def select(self, sites: Sequence[Site]) -> list[Site]:
        if self.grain != "branch":
            return trunk(sites, f"TaylorSeer(grain='{self.grain}')")
        return [s for s in sites if s.grain == "branch" and s.role in self.roles]

    def start(self) -> dict[str, Any]:
        """now: which evaluation it is; seen: the places asked in it; times: by evaluation; tables: by place."""
        return {"calls": 0, "full": 0, "skip": False, "now": None, "seen": set(), "times": {}, "tables": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1 and not self.full_at:
            return run(streams)
        if self.grain == "trunk":
            return self._trunk(site, clock, streams, run, memory)
        if self._skips(site.name, clock, streams, run, memory):
            said = self._forecast(memory["tables"][site.name], memory)
            return said if self.grain == "branch" else plus(streams, said)
        out = run(streams)
        self._learn(site.name, streams, out if self.grain == "branch" else minus(out, streams, site), memory)
        return out

    def _trunk(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """The first block of a stage decides for all; where another part passed it by, the others are computed."""
        if site.index == 0:
            memory["rows"] = torch.zeros(0) if self._skips(site.stage, clock, streams, run, memory) else None
        elif site.stage not in memory["seen"] or not _same(memory["now"], clock):
            return run(streams)
        return carry(site, site.index == 0, streams, run, memory,
                     lambda site, begin: plus(begin, self._forecast(memory["tables"][site.stage], memory)),
                     lambda site, begin, end, _: self._learn(site.stage, begin, minus(end, begin, site), memory))  # fmt: skip

    def _skips(self, place: Any, clock: Clock, streams: Streams, run: Call, memory: dict) -> bool:
        """Whether this place is forecast. The first place of an evaluation decides for all; one that has too few values,
        as other parts left it out or its shape has changed, is computed."""
        like, table = lead(streams), memory["tables"].get(place)
        new = place in memory["seen"] or not _same(memory["now"], clock)
        if table is not None and table["shape"] != like.shape and not _fits(table, like):
            table = None
            del memory["tables"][place]
        if new:
            self._begin(clock, like, run, memory)
        memory["seen"].add(place)
        return memory["skip"] and table is not None and len(table["at"]) >= min(self.warmup, self.order + 1)

    def _begin(self, clock: Clock, like: Tensor, run: Call, memory: dict) -> None:
        call, times, tables = memory["calls"], memory["times"], memory["tables"]
        note(run, clock, "taylorseer", None if memory["skip"] else tables, {"evaluations": 1})
        full = call < self.warmup or (call in self.full_at if self.full_at else call - memory["full"] >= self.interval)
        memory["times"] = {k: times[k] for table in tables.values() for k in table["at"]} | {call: moment(clock, like)}
        memory.update(calls=call + 1, skip=not full, now=(clock.step, clock.evaluation, clock.t), seen=set(), weights={})
        memory["full"] = call if full else memory["full"]

    def _forecast(self, table: dict, memory: dict) -> Streams:
        """Places that were computed in the same evaluations share their weights: k^i / i! for differences, Lagrange's."""
        at, call, times = table["at"], memory["calls"] - 1, memory["times"]
        if at not in memory["weights"]:
            series = [(call - at[0]) ** i / math.factorial(i) for i in range(len(at))] if self.faithful else None
            memory["weights"][at] = series or shared(times[call], [times[k] for k in at])
        values, weights = table["values"] if self.store == "plain" else unpack(table["values"]), memory["weights"][at]
        return {k: weighted(weights, [v[k] for v in values]) for k in values[0]}

    def _learn(self, place: Any, streams: Streams, value: Streams, memory: dict) -> None:
        call, table, keep = memory["calls"] - 1, memory["tables"].get(place, {"values": [], "at": ()}), self.order + 1
        if self.faithful:
            distance = call - table["at"][0] if table["at"] else 1
            values = pack(_differences(value, unpack(table["values"]), distance)[:keep], self.store)
        else:
            values = [pack(value, self.store), *table["values"]][:keep]
        memory["tables"][place] = {"values": values, "at": (call, *table["at"])[:keep], "shape": tuple(lead(streams).shape)}


def _same(now: tuple | None, clock: Clock) -> bool:
    """Whether a call belongs to the evaluation (step, number, time); times of rows are cut anew for parts of a batch."""
    if now is None or now[0] != clock.step or now[1] != clock.evaluation:
        return False
    return now[2] is clock.t or (isinstance(clock.t, Tensor) and clock.t.ndim > 0)


def _fits(table: dict, like: Tensor) -> bool:
    """Whether its values are of such streams: a resampling may have changed the number of rows since they were kept."""
    return table["shape"][1:] == like.shape[1:] and all(len(v) == len(like) for v in table["values"][0].values() if v is not None)


def _differences(out: Streams, before: list[Streams], distance: int) -> list[Streams]:
    """D^0 = F, D^{i+1} = (D^i - the old D^i) / distance in evaluations."""
    values = [out]
    for old in before:
        now = values[-1]
        values.append({k: None if v is None else (wide(v) - wide(old[k])) / distance for k, v in now.items()})
    return values
