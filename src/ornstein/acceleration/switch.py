"""Switching between pruned versions of one network: for each step the sub-network that a search found for it.

A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance Strategies, Jinchao Zhu, Yuxuan Wang,
Siyuan Pan, Pengfei Wan, Di Zhang, Gao Huang, 2024, arXiv:2406.00210 (multi-UNet switching). Sub-network s is the network
without some blocks, and step k is taken by s_k. Of all tables (s_k) within a share of the FLOPs, `assemble` looks for

    min sum_k |v_{s_k}(x_k) - v(x_k)| |t_k - t_{k+1}|,

the way by which each step alone goes astray on the whole network's trajectory, greedily by error per block saved; then it
tries exchanges of two steps on the error at the end. A step costs its blocks; nothing is stored. Networks that were tuned
after pruning are for guidance/stitch, which takes the same table.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.seam import Call, Run, Streams, attach, running
from ornstein.core.sites import Site, find_sites

__all__ = ["Switch", "assemble"]


@dataclass(frozen=True)
class Switch:
    """The same for all samples, branches and evaluations of a step."""

    subnets: tuple[tuple[int, ...], ...] = ((),)  # for each sub-network the blocks it lacks, by their place, 0 first
    table: tuple[int, ...] = ()  # for each step of the run its sub-network; (): the whole network always
    found: str | Path | Artefact = ""  # what `assemble` found, a file or an Artefact, instead
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.found:
            made = self.found if isinstance(self.found, Artefact) else Artefact.load(self.found, "switch")
            lacks = [row.nonzero()[:, 0].tolist() for row in made.arrays["subnets"]]
            object.__setattr__(self, "subnets", tuple(map(tuple, lacks)))
            object.__setattr__(self, "table", tuple(made.arrays["table"].tolist()))
        if not all(0 <= s < len(self.subnets) for s in self.table):
            raise OrnsteinError(f"table={self.table} of {len(self.subnets)} sub-networks", "Count sub-networks from 0.")

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """The blocks that some step lacks; all of them where none does, so that the record says so."""
        if any(s.grain == "stage" for s in sites):
            raise OrnsteinError("Switch does not fit a U-Net: its stages change the resolution and hand on skips",
                                "Stitch pruned U-Nets by guidance/stitch.")  # fmt: skip
        blocks, named = [s for s in sites if s.grain == "block"], {b for s in self.table for b in self.subnets[s]}
        if foreign := sorted(named - {s.depth for s in blocks}):
            raise OrnsteinError(f"Switch leaves out block {foreign[0]} of a network of {len(blocks)} blocks",
                                f"Its blocks are 0 to {len(blocks) - 1}.")  # fmt: skip
        return [s for s in blocks if s.depth in named or not named]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.table and clock.steps != len(self.table):
            raise OrnsteinError(f"Switch has a table of {len(self.table)} steps, and this run has {clock.steps}",
                                f"Sample with {len(self.table)} steps.")  # fmt: skip
        lacks = bool(self.table) and site.depth in self.subnets[self.table[clock.step]]
        note(run, clock, "switch", memory, {"blocks": 1, "blocks_skipped": int(lacks)})
        return streams if lacks else run(streams)


class Watch:
    """A denoiser that writes down what it was asked and what it said."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.process, self.seen = denoiser, denoiser.process, []

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None) -> Any:
        said = self.denoiser(x, t, cond, clock)
        self.seen.append((clock, x, t, cond, said.velocity))
        return said


def assemble(denoiser: Any, start: Tensor, solver: Any, steps: int, subnets: Sequence[Sequence[int]], share: float = 0.75,
             cond: Any = None, seed: int = 0, exchanges: int = 0) -> Artefact:  # fmt: skip
    """The table of the least error within `share` of all blocks, as an Artefact for Switch(found=...).

    start: noise [B, ...] of the trajectories it is measured on; subnets: the blocks that each lacks, the whole network is
    added; exchanges: pairs of steps that are tried the other way round, each by one run.
    """
    blocks = [s for s in find_sites(denoiser.backbone) if s.grain == "block"]
    lacks = [(), *(tuple(sorted(s)) for s in subnets if s)]
    if not 0 < share <= 1 or steps * (len(blocks) - max(map(len, lacks))) > share * steps * len(blocks):
        raise OrnsteinError(f"{share:g} of {len(blocks)} blocks cannot be had with these {len(lacks) - 1} sub-networks",
                            "Give smaller sub-networks, or a larger share.")  # fmt: skip

    def walk(table: Sequence[int], by: Any = denoiser) -> Tensor:
        detach = attach(denoiser.backbone, Switch(tuple(lacks), tuple(table)))
        try:
            return sample(by, start, solver, steps, cond=cond, seed=seed)
        finally:
            detach()

    watch = Watch(denoiser)
    whole = walk([0] * steps, watch)
    needed = math.ceil(steps * len(blocks) * (1 - share) - 1e-9)
    table = _greedy(_astray(denoiser, watch.seen, lacks, steps), [len(s) for s in lacks], needed)
    best, source = (walk(table) - whole).norm().item(), random.Random(seed)
    for _ in range(exchanges):
        i, j = source.sample(range(steps), 2)
        other = list(table)
        other[i], other[j] = other[j], other[i]
        if other != table and (score := (walk(other) - whole).norm().item()) < best:
            table, best = other, score
    mask = torch.tensor([[b in s for b in range(len(blocks))] for s in lacks])
    told = {"share": share, "steps": steps, "error": best / whole.norm().item(), "exchanges": exchanges}
    return Artefact("switch", {"subnets": mask, "table": torch.tensor(table)}, told, describe(denoiser))


def _astray(denoiser: Any, seen: Sequence[tuple], lacks: Sequence[tuple], steps: int) -> Tensor:
    """|v_s - v| |dt| of each sub-network at each step of the whole network's trajectory, [steps, S]."""
    times = [float(torch.as_tensor(t).max()) for _, _, t, _, _ in seen] + [0.0]
    error = torch.zeros(steps, len(lacks))
    for s, subnet in enumerate(lacks):
        detach = attach(denoiser.backbone, Switch((subnet,), (0,) * steps)) if subnet else None
        for k, (clock, x, t, cond, v) in enumerate(seen if subnet else ()):
            with running(Run()):
                moved = denoiser(x, t, cond, clock).velocity - v
            error[clock.step, s] += moved.norm().item() * abs(times[k] - times[k + 1])
        if detach is not None:
            detach()
    return error


def _greedy(error: Tensor, saves: Sequence[int], needed: int) -> list[int]:
    """From the whole network at all steps: always the change of a step that adds least error per further block saved."""
    table = [0] * len(error)
    while sum(saves[s] for s in table) < needed:
        changes = [((error[k, s] - error[k, now]).item() / (saves[s] - saves[now]), k, s)
                   for k, now in enumerate(table) for s in range(len(saves)) if saves[s] > saves[now]]  # fmt: skip
        _, k, s = min(changes)
        table[k] = s
    return table
