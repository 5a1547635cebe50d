"""TeaCache: what a timestep adds to the input of the first block foretells how much the output will change.

Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model, Feng Liu, Shiwei Zhang, Xiaofeng Wang, et al., 2024,
arXiv:2411.19108. With m_k the input of the first block after norm and modulation, a sample adds up
p(mean|m_k - m_{k-1}| / mean|m_{k-1}|), p a polynomial fitted to the change of the model's output, and passes all blocks by
while the sum is below the threshold: each stage then adds its stored residual. A skip costs the first block's
modulations, no attention and no mlp; m and one residual per stage are stored; the gate waits for the device once per
evaluation. The gate comes before anything is computed, where `firstblock` asks the first block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import carry, lead, minus, pick, plus, put, relative, trunk
from ornstein.acceleration.layers.watch import watched
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Solver
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["TeaCache", "calibrate"]

# budget: the calibration stands beside the part that reads what it finds
KIND = "teacache"


@dataclass(frozen=True)
class TeaCache:
    """Decides for each sample by itself; samples that must be computed are computed together, without the others."""

    threshold: float = 0.1  # sum of foretold relative changes at which a sample is computed; 0: never skip
    coefficients: tuple[float, ...] = (0.0, 1.0)  # of p, the constant first; (0, 1): the change itself
    calibrated: str | Path | Artefact = ""  # what `calibrate` found (file or Artefact), instead of coefficients
    warmup: int = 1  # evaluations of a branch that are always full; the last step always is
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation rows")

    def __post_init__(self) -> None:
        if self.calibrated:
            found = self.calibrated
            found = found if isinstance(found, Artefact) else Artefact.load(found, KIND)
            object.__setattr__(self, "coefficients", tuple(found.arrays["coefficients"].tolist()))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return _places(sites)

    def start(self) -> dict[str, Any]:
        return {"calls": 0, "residual": {}, "forms": {}}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.threshold <= 0:
            return run(streams)
        if site.grain == "branch":
            return self._inside(site, clock, streams, run, memory)

        def fill(site: Site, streams: Streams) -> Streams:
            return plus(streams, memory["residual"][site.stage])

        def learn(site: Site, begin: Streams, end: Streams, rows: Tensor | None) -> None:
            new, known = minus(end, begin, site), memory["residual"].get(site.stage)
            memory["residual"][site.stage] = new if rows is None else put(known, rows, new)

        if site.name != memory.setdefault("first", site.name):  # the block that is called first, whatever its name
            return carry(site, site.index == 0, streams, run, memory, fill, learn)
        memory["rows"] = "undecided"
        out, memory["begin"] = run(streams), streams
        rows = memory["rows"]
        if isinstance(rows, str):
            raise OrnsteinError(f"the block '{site.name}' called none of its branches", "Use firstblock.")
        batch = len(lead(streams))
        note(run, clock, "teacache", memory, {"samples": batch, "samples_skipped": 0 if rows is None else batch - len(rows)})
        return out if rows is None else put(fill(site, streams), rows, pick(out, rows))

    def _inside(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        """A branch of the first block: the first one decides; what is not computed is zero, and thrown away."""
        if site.name.startswith(memory["first"] + "."):
            if isinstance(memory["rows"], str):
                memory["rows"] = self._decide(lead(streams), clock, memory)
            if (rows := memory["rows"]) is not None:
                like = lead(streams)
                forms = memory["forms"][site.name]
                zeros = {k: None if v is None else like.new_zeros(len(like), *v) for k, v in forms.items()}
                return put(zeros, rows, run(streams, rows)) if len(rows) else zeros
            out = run(streams)
            memory["forms"][site.name] = {k: tuple(v.shape[1:]) if isinstance(v, Tensor) else None for k, v in out.items()}
            return out
        return run(streams)

    def _decide(self, now: Tensor, clock: Clock, memory: dict) -> Tensor | None:
        """Which rows are computed (None: all), by what they added up since they were computed last."""
        before, memory["input"] = memory.get("input"), now
        calls, memory["calls"] = memory["calls"], memory["calls"] + 1
        if before is None or before.shape != now.shape or calls < self.warmup or clock.step == clock.steps - 1:
            memory["sum"] = torch.zeros(len(now), device=now.device)
            return None
        change = relative(now, before)
        foretold = sum(c * change**i for i, c in enumerate(self.coefficients))
        total = memory["sum"] + foretold.clamp(min=0)
        compute = ~(total < self.threshold)  # also where it is not a number
        memory["sum"] = torch.where(compute, 0.0, total)
        rows = compute.nonzero()[:, 0]
        return None if len(rows) == len(now) else rows


def _places(sites: Sequence[Site]) -> list[Site]:
    """The blocks, and the branches of those that begin a stage."""
    blocks = trunk(sites, "TeaCache")
    heads = {s.depth for s in blocks if s.index == 0}
    branches = [s for s in sites if s.grain == "branch" and s.depth in heads]
    return [*blocks, *branches] if branches else []


@dataclass(frozen=True, eq=False)
class _Watch:
    """Notes for each evaluation how much the first modulated input and the network's answer changed, per sample."""

    seen: list[tuple[Tensor, Tensor]]
    effects: ClassVar[Effects] = Effects()

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "network"] + _places(sites)

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if site.grain == "branch":
            memory.setdefault("now", lead(streams))
        out = run(streams)
        if site.grain == "network":
            now = (memory.pop("now"), lead(out))
            if "before" in memory:
                self.seen.append(tuple(relative(a, b).double().cpu() for a, b in zip(now, memory["before"])))
            memory["before"] = now
        return out


def calibrate(denoiser: Any, noise: Any, solver: Solver, steps: int = 40, *, cond: Any = None, rule: Any = "uniform",
              seed: int = 0, degree: int = 4) -> Artefact:  # fmt: skip
    """The polynomial, by least squares over a batch of full runs. noise: shape [B, ...] or start, as for `sample`."""
    watch = _Watch([])
    end = watched(watch, denoiser, noise, solver, steps, cond, rule, seed)
    change, told = (torch.cat(v) for v in zip(*watch.seen))
    powers = torch.stack([change**i for i in range(degree + 1)], 1)
    found = torch.linalg.lstsq(powers, told[:, None]).solution[:, 0]
    left = (powers @ found - told).std() / told.std()
    return Artefact(KIND, {"coefficients": found}, {"samples": len(end), "unexplained": float(left)},
                    describe(denoiser, str(rule), end.shape[1:]))  # fmt: skip
