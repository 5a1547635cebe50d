"""Attention broadcast: reuse the outputs of attention and mlp for some evaluations, each role with its own interval.

Real-Time Video Generation with Pyramid Attention Broadcast (PAB), Zhao, Jin, Wang, You, 2024, arXiv:2408.12588: in the
middle of the trajectory F(t) = F(t') for n evaluations, with n the longer the less the role changes: spatial attention 2,
temporal attention 4, cross-attention 6. FORA: Fast-Forward Caching in Diffusion Transformer Acceleration, Selvaraju,
Ding, Chen, Zharkov, Liang, 2024, arXiv:2407.01425: the same with one n for attention and mlp, over the whole trajectory.
F is the output before its gate. Cost: 1 / n of each role within the window; one output per branch is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead, put
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Broadcast"]

ROLES = ("attention", "cross_attention", "temporal", "mlp")


@dataclass(frozen=True)
class Broadcast:
    """Modulations, gates and the residual stream are those of now. Rows at times of their own decide for themselves; where
    these times lie on a device, each role waits for them once per evaluation."""

    attention: int = 2  # evaluations that one output serves; 1: always computed (PAB 2; FORA: all roles alike)
    cross_attention: int = 6  # (PAB 6)
    temporal: int = 4  # self-attention over frames, told by 'temp' in the module's path (PAB 4)
    mlp: int = 1  # (PAB: 1 but for a few blocks)
    window: tuple[float, float] = (0.1, 0.85)  # times within which outputs are reused (about PAB's; FORA: (0, 1))
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        low, high = self.window
        if min(self.attention, self.cross_attention, self.temporal, self.mlp) < 1 or low >= high:
            raise OrnsteinError(f"{self}", "Intervals are at least 1, and the window goes from a lower to a higher time.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """The branches of the roles that are reused; all of them where none is, so that the record says so."""
        branches = [s for s in sites if s.grain == "branch" and _role(s) in ROLES]
        return [s for s in branches if getattr(self, _role(s)) > 1] or branches

    def start(self) -> dict[str, Any]:
        return {"first": {}, "age": {}, "rows": {}, "held": {}, "shape": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        role, x = _role(site), lead(streams)
        interval = getattr(self, role)
        if interval == 1:
            return run(streams)
        old = memory["held"].get(site.name)
        if old is not None and (memory["shape"][site.name] != x.shape[1:] or len(lead(old)) != len(x)):
            old = None
        if site.name == memory["first"].setdefault(role, site.name):
            if site.name == next(iter(memory["first"].values())):
                note(run, clock, "broadcast", memory["held"], {"evaluations": 1})
            age = memory["age"].get(role) if old is not None else None
            memory["rows"][role], memory["age"][role] = self._decide(age, interval, clock, len(x))
        rows = memory["rows"][role]
        if rows is None or old is None:
            out = run(streams)
        elif len(rows):
            out = put(old, rows.to(x.device), run(streams, rows.to(x.device)))
        else:
            return old
        memory["held"][site.name], memory["shape"][site.name] = out, x.shape[1:]
        return out

    def _decide(self, age: Tensor | None, interval: int, clock: Clock, batch: int) -> tuple[Tensor | None, Tensor]:
        """(rows to compute, None for all; evaluations since each row was computed [B]), on the CPU."""
        if age is None:
            return None, torch.zeros(batch, dtype=torch.long)
        t = torch.as_tensor(clock.t).cpu()
        t = t.flatten(1).mean(1) if t.ndim > 1 else t
        inside = (t >= self.window[0]) & (t <= self.window[1])
        inside = inside if inside.ndim == 0 or len(inside) == batch else inside.all()  # rows that are not samples
        reuse = inside & (age + 1 < interval)
        age = torch.where(reuse, age + 1, 0)
        return (None if not reuse.any() else (~reuse).nonzero()[:, 0]), age


def _role(site: Site) -> str:
    return "temporal" if site.role == "attention" and "temp" in site.name else site.role
