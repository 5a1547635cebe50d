"""LESA: foretell what leaves the last block by a small predictor that was learned for each stage of the noise.

LESA: Learnable Stage-Aware Predictors for Diffusion Model Acceleration, Cai, Liu, Xu, Wang, Zou, Zhang, 2026,
arXiv:2602.20497. One evaluation in N is computed; the others take h^ = h_0 + alpha(dt) z, where z mixes the last
K computed features h_0, h_1, ... and alpha is a KAN of their times. Here h^ = h_0 + r S_0 + sum_jm C_jm
phi_m(r) S_j: S_j is the slope from h_{j+1} to h_j, scaled to the newest interval, r the place in units of it, phi_m hats
on [0, 1], and C one expert's coefficients. C = 0 is Taylor's order 1; recipes/train_lesa finds C
in closed form. A forecast costs K scaled additions and no block; K features of each stage of blocks are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.forecast import place, push, weighted
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead, trunk
from ornstein.core.artefact import Artefact
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["LESA", "hats", "slopes"]


@dataclass(frozen=True)
class LESA:
    """All rows are computed or foretold together; each row has its own times and its own expert."""

    interval: int = 3  # N: one full evaluation in so many; 1: never skip. Coefficients were learned for one N
    predictor: str | Path | Artefact = ""  # what was learned; without it a forecast is Taylor's of order 1
    warmup: int = 2  # full evaluations at the start
    weights: Tensor | None = field(init=False, repr=False, compare=False)  # C [experts, K - 1, M]
    bounds: tuple[float, ...] = field(init=False, repr=False)  # times between the experts, from the highest to the lowest
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.interval < 1 or self.warmup < 1:
            raise OrnsteinError(f"LESA(interval={self.interval}, warmup={self.warmup})", "Both are at least 1.")
        weights, bounds = None, ()
        if self.predictor:
            found = self.predictor if isinstance(self.predictor, Artefact) else Artefact.load(self.predictor, "lesa")
            weights, bounds = found.arrays["weights"].double(), tuple(found.settings["bounds"])
            if found.settings["interval"] != self.interval and self.interval > 1:
                raise OrnsteinError(f"this predictor was learned for interval={found.settings['interval']}, not {self.interval}",
                                    "Use that interval, or train another.")  # fmt: skip
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bounds", bounds)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return trunk(sites, "LESA")

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "full": 0, "tables": {}, "shape": None}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.interval == 1:
            return run(streams)
        if site.name == memory.setdefault("first", site.name):
            note(run, clock, "lesa", memory, {"evaluations": 1})
            self.begin(lead(streams), memory)
        if not memory["due"]:
            return self.foretell(site, clock, streams, memory) if site.index == site.count - 1 else streams
        out = run(streams)
        if site.index == site.count - 1:
            self.keep(site, clock, out, memory)
        return out

    def begin(self, x: Tensor, memory: dict) -> None:
        """Decide whether this evaluation is computed: memory['due']."""
        if memory["shape"] != (len(x), *x.shape[1:]):
            memory |= {"calls": 0, "full": 0, "tables": {}, "shape": (len(x), *x.shape[1:])}
        call = memory["calls"]
        memory["due"] = call < self.warmup or call - memory["full"] >= self.interval
        memory["calls"], memory["full"] = call + 1, call if memory["due"] else memory["full"]

    def keep(self, site: Site, clock: Clock, out: Streams, memory: dict) -> None:
        size = 2 if self.weights is None else self.weights.shape[1] + 1
        memory["tables"][site.stage] = push(memory["tables"].get(site.stage), size, place(clock, lead(out)), out)

    def foretell(self, site: Site, clock: Clock, streams: Streams, memory: dict) -> Streams:
        """What leaves the stage at the clock's time, by its table of computed features."""
        table = memory["tables"][site.stage]
        t = place(clock, lead(streams))
        r, mix = slopes(t, table["at"])
        count = r[:, None] * torch.eye(mix.shape[1], dtype=r.dtype, device=r.device)[0]  # of each slope [B, K - 1]
        if self.weights is not None:
            bounds = torch.tensor(self.bounds, dtype=t.dtype, device=t.device)
            experts = self.weights.to(t.device)[(t[:, None] < bounds).sum(1)]
            count = count + torch.einsum("bjm,bm->bj", experts, hats(r, experts.shape[-1]))
        total = torch.einsum("bj,bjn->bn", count, mix)
        total[:, 0] += 1
        return {k: weighted(total.unbind(1), [v[k] for v in table["values"]]) for k in table["values"][0]}


def slopes(t: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """(r [B], mix [B, K - 1, K]) for time t [B] and computed times `at` [B, K], newest first: S_j = sum_n mix_jn h_n. A slope
    between two features of one time is 0, and so is r where the newest two are."""
    apart = at[:, :-1] - at[:, 1:]
    inverse = torch.where(apart == 0, 0, 1 / torch.where(apart == 0, 1, apart))
    one = torch.eye(at.shape[1], dtype=at.dtype, device=at.device)
    mix = (one[:-1] - one[1:]) * (apart[:, :1] * inverse)[..., None]
    return (t - at[:, 0]) * inverse[:, 0], mix


def hats(r: Tensor, count: int) -> Tensor:
    """phi_m(r) [B, M]: the linear splines with knots 1/M, ..., 1 that are 0 at r = 0, and constant beyond 1."""
    knots = torch.arange(1, count + 1, dtype=r.dtype, device=r.device)
    return (1 - (r.clamp(0, 1)[:, None] * count - knots).abs()).clamp_min(0)
