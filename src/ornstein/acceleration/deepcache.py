"""DeepCache: keep the deep half of a U-Net for some evaluations and recompute its outer levels only.

DeepCache: Accelerating Diffusion Models for Free, Ma, Fang, Wang, 2023, arXiv:2312.00858. A full evaluation stores F,
the output of U_{m+1}, before it meets the skip of D_m. A cheap one runs D_1..D_m on the present x and time, joins
their skips with F, and runs U_m..U_1. Full evaluations are 0, N, 2N, ..., or the paper's uneven list (section 3.3).
Cost per cycle: (1 + (N - 1) outer / all) / N; one tensor is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.store import check_store, pack, unpack
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["DeepCache", "uneven"]


@dataclass(frozen=True)
class DeepCache:
    """The schedule counts the evaluations of each branch and is the same for all samples."""

    interval: int = 3  # N: one full evaluation in so many; 1: never skip
    branch: int = 1  # m: outer levels that are always recomputed
    full_at: tuple[int, ...] = ()  # evaluations that are full, instead of every N-th; the first one always is
    store: str = "plain"  # how F is kept: plain, half or host
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        check_store("deepcache", self.store)
        if self.interval < 1 or self.branch < 1:
            raise OrnsteinError(f"DeepCache(interval={self.interval}, branch={self.branch})", "Both are at least 1.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        stages = [s for s in sites if s.grain == "stage"]
        levels = sum(s.role == "up" for s in stages)
        if not stages:
            raise OrnsteinError("DeepCache needs a U-Net: this network has no stages of falling and rising resolution",
                                "Use firstblock or taylorseer on a transformer.")  # fmt: skip
        if levels <= self.branch:
            raise OrnsteinError(f"DeepCache(branch={self.branch}) would recompute all of a U-Net of {levels} levels",
                                f"Recompute at most {levels - 1} of them.")  # fmt: skip
        return stages

    def start(self) -> dict[str, Any]:
        return {"calls": -1, "order": {"down": [], "mid": [], "up": []}, "forms": {}, "deep": None}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """The order of the stages is read from the first evaluation: the 'down' that is called first is outermost."""
        if self.interval == 1 and not self.full_at:
            return run(streams)
        order = memory["order"][site.role]
        if memory["calls"] <= 0 and site.name not in order:
            order.append(site.name)
        place, lead = order.index(site.name), next(v for v in streams.values() if isinstance(v, Tensor))
        if site.role == "down" and place == 0:
            self._begin(lead, clock, run, memory)
        if memory["full"]:
            out = run(streams)
            memory["forms"][site.name] = _form(out)
            if site.role == "up" and len(memory["order"]["down"]) - 1 - place == self.branch:
                memory["deep"] = pack(out, self.store)
            return out
        up = len(order) - 1 - place  # 0 is the outermost level
        if (site.role == "down" and place < self.branch) or (site.role == "up" and up < self.branch):
            return run(streams)
        return unpack(memory["deep"]) if site.role == "up" and up == self.branch else _blank(memory["forms"][site.name], lead)

    def _begin(self, lead: Tensor, clock: Clock, run: Call, memory: dict) -> None:
        note(run, clock, "deepcache", memory["deep"], {"evaluations": 1})
        shape = tuple(lead.shape[1:])
        call = memory["calls"] + 1
        if memory.get("shape", shape) != shape:
            call, memory["deep"] = 0, None
        memory["calls"], memory["shape"] = call, shape
        due = call in self.full_at if self.full_at else call % self.interval == 0
        memory["full"] = due or memory["deep"] is None or len(next(iter(memory["deep"].values()))) != len(lead)


def uneven(evaluations: int, full: int, center: int, power: float = 1.4) -> tuple[int, ...]:
    """The paper's list for `full_at`: `full` of `evaluations`, densest about `center` (power 1 is even)."""
    low, high = (math.copysign(abs(v) ** (1 / power), v) for v in (-center, evaluations - center))
    points = [low + (high - low) * k / full for k in range(full)]
    return tuple(sorted({0, *(round(math.copysign(abs(p) ** power, p) + center) for p in points)}))


def _form(out: Any) -> Any:
    """The shapes of what a stage hands on, without the batch."""
    if isinstance(out, dict):
        return {k: _form(v) for k, v in out.items()}
    return [_form(v) for v in out] if isinstance(out, (tuple, list)) else ("tensor", *out.shape[1:])


def _blank(form: Any, like: Tensor) -> Any:
    """Zeros of these shapes, without memory: nobody reads them, but others may add to them or ask for their shape."""
    if isinstance(form, dict):
        return {k: _blank(v, like) for k, v in form.items()}
    if isinstance(form, list):
        return tuple(_blank(v, like) for v in form)
    return like.new_zeros(()).expand(len(like), *form[1:])
