"""MagCache: how fast the blocks' residual grows or shrinks is a law of the step, known before the run.

MagCache: Fast Video Generation with Magnitude-Aware Cache, Zehong Ma, Longhui Wei, Feng Wang, Shiliang Zhang, Qi Tian, 2025,
arXiv:2506.09045. With r_k = h_end - h_begin at step k, gamma_k = mean over tokens of |r_k| / |r_{k-1}| is measured once
per model. After the retained first steps the product of the gammas since the last full evaluation estimates how far the
stored residual is off; while sum |1 - product| stays within the threshold, and at most `limit` times in a row, all blocks
are passed by and h_begin + r is handed on. A skip costs no block and no wait for the device; one residual per stage is
stored. The schedule follows from the step alone, so it is the same for all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import carry, lead, minus, plus, trunk
from ornstein.acceleration.layers.watch import watched
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Solver
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["MagCache", "Growth", "calibrate", "resampled"]

# budget: the calibration stands beside the part that reads what it finds
KIND = "magcache"
# of the shipped 'digits' in 40 even steps of flow time, gathered into ten; calibrate for another model
DIGITS = (1.0, 1.058, 0.848, 0.888, 0.916, 0.924, 0.935, 0.951, 0.965, 0.998, 1.078)


@dataclass(frozen=True)
class MagCache:
    """The ratios are those of a run of any number of steps on the same kind of grid; they are resampled to this run's."""

    threshold: float = 0.06  # E: largest sum of estimated errors; 0: never skip
    limit: int = 3  # K: most evaluations in a row that are skipped
    retain: float = 0.2  # share of the steps, from the first, that are never skipped
    ratios: tuple[float, ...] = DIGITS  # gamma_0 = 1, gamma_1, ...
    calibrated: str | Path | Artefact = ""  # what `calibrate` found (file or Artefact), instead of ratios
    faithful: bool = False  # ratios resampled as published, by the nearest step, whatever the length of a step
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        ratios: Sequence[float] = self.ratios
        if self.calibrated:
            found = self.calibrated
            found = found if isinstance(found, Artefact) else Artefact.load(found, KIND)
            ratios = found.arrays["ratios"].tolist()
        if len(ratios) < 2 or not all(r > 0 for r in ratios):
            raise OrnsteinError(f"MagCache(ratios={tuple(ratios)!r})", "Give at least two positive ratios, 1 first.")
        object.__setattr__(self, "ratios", tuple(ratios))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return trunk(sites, "MagCache")

    def start(self) -> dict[str, Any]:
        return {"residual": {}, "product": 1.0, "error": 0.0, "skips": 0}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if self.threshold <= 0:
            return run(streams)
        if site.name == memory.setdefault("first", site.name):  # the block that is called first, whatever its name
            self._decide(clock, streams, run, memory)

        def fill(site: Site, streams: Streams) -> Streams:
            return plus(streams, memory["residual"][site.stage])

        def learn(site: Site, begin: Streams, end: Streams, rows: Tensor | None) -> None:
            memory["residual"][site.stage] = minus(end, begin, site)

        return carry(site, site.index == 0, streams, run, memory, fill, learn)

    def _decide(self, clock: Clock, streams: Streams, run: Call, memory: dict) -> None:
        steps = max(clock.steps, clock.step + 1)
        if memory.get("shape") != lead(streams).shape:
            memory.update(residual={}, shape=lead(streams).shape)
        skip = False
        if clock.step >= int(self.retain * steps + 0.5):
            memory["product"] *= resampled(self.ratios, steps, self.faithful)[clock.step]
            memory["skips"] += 1
            memory["error"] += abs(1 - memory["product"])
            skip = bool(memory["residual"]) and memory["error"] <= self.threshold and memory["skips"] <= self.limit
        if not skip:
            memory.update(product=1.0, error=0.0, skips=0)
        memory["rows"] = torch.zeros(0, dtype=torch.long, device=lead(streams).device) if skip else None
        note(run, clock, "magcache", memory["residual"], {"evaluations": 1, "evaluations_skipped": int(skip)})


@lru_cache(maxsize=256)
def resampled(ratios: tuple[float, ...], steps: int, faithful: bool = False) -> tuple[float, ...]:
    """The ratios of a run of so many steps: those of the growth in all at the same share of the run, so that longer steps
    have larger ones; faithful: that of the nearest step as it is."""
    n, scale = len(ratios), (len(ratios) - 1) / max(steps - 1, 1)
    if faithful:
        return tuple(ratios[round(k * scale)] if steps > 1 else ratios[-1] for k in range(steps))
    grown = [0.0]
    for ratio in ratios[1:]:
        grown.append(grown[-1] + math.log(ratio))
    places = [(min(int(k * scale), n - 2), k * scale) for k in range(steps)]
    level = [grown[i] + (u - i) * (grown[i + 1] - grown[i]) for i, u in places]
    return (1.0, *(math.exp(b - a) for a, b in zip(level, level[1:])))


@dataclass(frozen=True, eq=False)
class Growth:
    """Notes the residual's growth over each evaluation of the branch 'cond', in the longest stage: means over tokens."""

    seen: list[float]
    effects: ClassVar[Effects] = Effects()

    def select(self, sites: Sequence[Site]) -> list[Site]:
        blocks = trunk(sites, "MagCache")
        longest = max((s.count for s in blocks), default=0)
        stage = next((s.stage for s in blocks if s.count == longest), None)
        return [s for s in blocks if s.stage == stage]

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if site.index == 0:
            memory["begin"] = streams
        out = run(streams)
        if site.index == site.count - 1 and clock.branch == "cond":
            now = lead(minus(out, memory["begin"], site)).float().norm(dim=-1)
            ratio = (now / memory.get("before", now).clamp(min=1e-8)).mean(tuple(range(1, now.ndim)))
            self.seen.append(float(ratio.mean()))
            memory["before"] = now
        return out


def calibrate(denoiser: Any, noise: Any, solver: Solver, steps: int = 40, *, cond: Any = None, rule: Any = "uniform",
              seed: int = 0) -> Artefact:  # fmt: skip
    """gamma_k of a batch of full runs. noise: shape [B, ...] or start, as for `sample`; the solver must ask once per step."""
    watch = Growth([])
    end = watched(watch, denoiser, noise, solver, steps, cond, rule, seed)
    if len(watch.seen) != steps:
        raise OrnsteinError(f"the solver asked {len(watch.seen)} times in {steps} steps", "Calibrate with ddim or dpmpp2m.")
    return Artefact(KIND, {"ratios": torch.tensor(watch.seen, dtype=torch.float64)}, {"samples": len(end)},
                    describe(denoiser, str(rule), end.shape[1:]))  # fmt: skip
