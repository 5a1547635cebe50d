"""DiffSparse: each layer at each step recomputes as many tokens as a budget is best spent on, and keeps the others' answers.

DiffSparse: Accelerating Diffusion Transformers with Learned Token Sparsity, 2026. With costs C_{l,s} of letting layer l
(of a step) keep a share s of its tokens, s in {0, 1/4, 1/2, 3/4, 1}, the shares under a budget are found exactly:
F(l, r) = min_s F(l - 1, r - s) + C_{l,s}. The (1 - s) N tokens of the highest score are computed; here the score is how far
a token's input lies from that of its last computation. Cost: 1 - s of each layer; two [N, D] per layer and the keys and
values of attention are stored, and moved at each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.allocation import allocate
from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.tokens import all_keys, best, blocks_of, narrowed, pick, put
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, Solver, State, sample
from ornstein.core.seam import Call, Run, Streams, attach
from ornstein.core.sites import Site

__all__ = ["DiffSparse", "calibrate"]

ROLES = ("attention", "cross_attention", "mlp")


@dataclass(frozen=True)
class DiffSparse:
    """How many tokens is the same for all samples of a batch, which ones each sample decides."""

    share: float = 0.5  # of tokens kept in every layer and step after the warm-up, where there is no table
    warmup: int = 1  # full evaluations of a branch at the start, whatever the table says
    table: str | Path | Artefact = ""  # what `calibrate` found (file or Artefact): its array `shares` [steps, layers]
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation tokens attention")

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.warmup < 1:
            raise OrnsteinError(f"DiffSparse(share={self.share}, warmup={self.warmup})",
                                "share is 0 to 1, warmup at least 1.")  # fmt: skip
        if self.table and not isinstance(self.table, Artefact):
            object.__setattr__(self, "table", Artefact.load(self.table, "diffsparse"))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        blocks_of(sites, "DiffSparse")
        branches = [s for s in sites if s.grain == "branch" and s.role in ROLES]
        if self.table and len(branches) != self.table.arrays["shares"].shape[1]:
            raise OrnsteinError(f"this table is for {self.table.arrays['shares'].shape[1]} layers, not for {len(branches)}",
                                "Calibrate it on this network.")  # fmt: skip
        return [*branches, *(s for s in sites if s.grain == "attention" and s.role == "attention")]

    def start(self) -> dict[str, Any]:
        return {"layers": {}, "store": {}, "active": None}

    def wanted(self, layer: int, clock: Clock) -> float:
        """The share of tokens that this layer keeps at this step."""
        if not self.table:
            return self.share
        shares = self.table.arrays["shares"]
        if clock.steps != len(shares):
            raise OrnsteinError(f"this table is for {len(shares)} steps, and this run has {clock.steps}",
                                f"Sample with {len(shares)} steps.")  # fmt: skip
        return float(shares[clock.step, layer])

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if site.grain == "attention":
            return run(all_keys(streams, memory["store"], site, memory["active"]))
        name, x = next((k, v) for k, v in streams.items() if isinstance(v, Tensor))
        layers = memory["layers"]
        known = layers.setdefault(site.name, {"number": len(layers), "calls": 0, "x": x[:0]})
        same = known["x"].shape == x.shape
        share = self.wanted(known["number"], clock) if same and known["calls"] >= self.warmup else 0.0
        known["calls"] = known["calls"] + 1 if same else 1
        computed = x.shape[1] - round(share * x.shape[1])
        memory["active"] = None
        if computed == x.shape[1]:
            out = run(streams)
            known |= {"x": x, "out": out} if self.table or self.share else {}
        elif computed:
            index = memory["active"] = best((x - known["x"]).float().norm(dim=2), computed)
            part = narrowed(run, index, x.shape[1])({**streams, name: pick(x, index)})
            out = {k: put(known["out"][k], index, v) for k, v in part.items()}
            known |= {"x": put(known["x"], index, pick(x, index)), "out": out}
        else:
            out = known["out"]
        note(run, clock, "diffsparse", memory, {"tokens": x.shape[1], "tokens_kept": x.shape[1] - computed})
        return out


@dataclass(frozen=True)
class _Probe(DiffSparse):
    """Keeps a share in one layer at one step, and is full elsewhere."""

    at: tuple[int, int] = (0, 0)  # step, layer

    def wanted(self, layer: int, clock: Clock) -> float:
        return self.share if (clock.step, layer) == self.at else 0.0


# budget: the calibration stands beside what reads its table, and neither is of use without the other
class _Trail(Controller):
    """The states of a run, the first included."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def begin(self, state: State) -> State:
        self.states.append(state)
        return state

    def after(self, before: State, now: State) -> State:
        self.states.append(now)
        return now


def calibrate(denoiser: Denoiser, noise: Sequence[int], solver: Solver, steps: int, kept: float = 0.5, *, cond: Any = None,
              seed: int = 1000, rule: str = "uniform", levels: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)) -> Artefact:  # fmt: skip
    """The table of shares for runs of so many steps that keeps a share `kept` of all tokens of all layers and steps.

    C_{l,s} is measured: the squared distance of the final samples to those of the full run where layer l alone keeps s of
    what it said one step earlier. noise: shape of the samples to measure on; levels: the shares s, 0 first. Takes
    (levels - 1) layers runs from each step on.
    """

    def drawn(part: DiffSparse, start: State) -> Tensor:
        detach = attach(denoiser.backbone, part)
        try:  # in the step before the probe, the first of its run, the layers fill their memory
            return sample(denoiser, noise, solver, steps, rule=rule, start=start, run=run)
        finally:
            detach()

    trail, run = _Trail(), Run()
    full = sample(denoiser, noise, solver, steps, cond=cond, seed=seed, rule=rule, controllers=[trail])
    drawn(DiffSparse(0.0), trail.states[-2])
    layers = sum(k.endswith("/branch") for k in run.record.asked_at)
    costs = torch.full((steps, layers, len(levels)), torch.inf)
    costs[..., 0] = 0
    for step in range(1, steps):
        for layer in range(layers):
            for i, share in enumerate(levels[1:], 1):
                x = drawn(_Probe(share, at=(step, layer)), trail.states[step - 1])
                costs[step, layer, i] = (x - full).square().mean()
    saved = torch.tensor([round(100 * s) for s in levels]).expand(steps * layers, -1)
    choice = allocate(costs.flatten(0, 1), saved, round(kept * 100 * steps * layers))
    shares = torch.tensor(levels, dtype=torch.float32)[choice].view(steps, layers)
    return Artefact("diffsparse", {"shares": shares, "costs": costs}, {"kept": kept}, describe(denoiser, rule, noise[1:]))
