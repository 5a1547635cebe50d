"""Feature inheritance: at listed or calibrated steps chosen units hand on what they said at an earlier step.

A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance Strategies, Zhu, Wang, Pan, Wan,
Zhang, Huang, 2024, arXiv:2406.00210 (its half without training): at step k unit u inherits F_u(k) = F_u(k'), by stage,
block or branch, at uniform steps or within a part of the trajectory. Fast and Memory-Efficient Video Diffusion Using
Streamlined Inference (its step rehash), Zhan, Wu, Gong, et al., 2024, arXiv:2411.01171: the steps come from a measured
similarity of adjacent steps. Here a unit inherits while the changes ||F(j) - F(j-1)|| / ||F(j-1)||, summed since it was
computed, stay below a threshold. Cost: the share that is computed; one output per unit, only while it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.spans import lead, minus, plus
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import sample
from ornstein.core.seam import Call, Streams, attach
from ornstein.core.sites import Site

# budget: a schedule and its calibration read the same units; apart they would repeat that rule
__all__ = ["StepReuse", "calibrate", "steps_between", "with_share"]

GRAINS = ("branch", "block", "stage")


@dataclass(frozen=True)
class StepReuse:
    """Steps of the run decide, the same for all samples, branches of guidance and evaluations of a step."""

    grain: str = "branch"  # units: branch (attention, mlp: the output), block (what it adds), stage (a U-Net's inner part)
    at: tuple[int, ...] = ()  # steps at which all units inherit; the first is computed in any case
    level: int = 1  # for stages: outer levels that are always computed
    roles: tuple[str, ...] = ("attention", "cross_attention", "mlp")  # for branches
    schedule: str | Path | Artefact = ""  # what `calibrate` made (or its file), instead of all the above
    table: frozenset | None = field(default=None, init=False, repr=False)  # (step, unit) that inherit
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if self.schedule:
            found = self.schedule if isinstance(self.schedule, Artefact) else Artefact.load(self.schedule, "stepreuse")
            units, settings = found.settings["units"], found.settings
            chosen = frozenset((k, units[u]) for k, u in found.arrays["inherits"].nonzero().tolist())
            values = {"grain": settings["grain"], "level": settings["level"], "roles": tuple(settings["roles"]),
                      "schedule": found, "table": chosen}  # fmt: skip
            for name, value in values.items():
                object.__setattr__(self, name, value)
        if self.grain not in GRAINS:
            raise unknown("grain", self.grain, GRAINS)

    def select(self, sites: Sequence[Site]) -> list[Site]:
        found = _units(sites, self.grain, self.level, self.roles)
        lost = sorted({u for _, u in self.table or ()} - {_key(s) for s in found})
        if lost:
            raise OrnsteinError(f"this schedule names '{lost[0]}', which the network does not have",
                                "Calibrate it on this network.")  # fmt: skip
        return found

    def start(self) -> dict[str, Any]:
        return {"held": {}}

    def _inherits(self, site: Site, step: int) -> bool:
        return step in self.at if self.table is None else (step, _key(site)) in self.table

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        steps = self.schedule.settings["steps"] if isinstance(self.schedule, Artefact) else clock.steps
        if clock.steps != steps:
            raise OrnsteinError(f"this schedule is for {steps} steps, and this run has {clock.steps}", f"Sample with {steps}.")
        x, old = lead(streams), memory["held"].get(site.name)
        if site.name == memory.setdefault("first", site.name):
            note(run, clock, "stepreuse", memory["held"], {"evaluations": 1})
        fits = old is not None and old["shape"] == x.shape[1:] and len(lead(old["value"])) == len(x)
        if fits and self._inherits(site, clock.step):
            return plus(streams, old["value"]) if self.grain == "block" else old["value"]
        out = run(streams)
        if self._inherits(site, clock.step + 1) or self._inherits(site, clock.step):
            value = minus(out, streams, site) if self.grain == "block" else out
            memory["held"][site.name] = {"shape": x.shape[1:], "value": value}
        else:
            memory["held"].pop(site.name, None)
        return out


def steps_between(begin: int, end: int, interval: int) -> tuple[int, ...]:
    """For `at`: the steps of [begin, end) that inherit where one in `interval` is computed, `begin` first."""
    return tuple(k for k in range(begin, end) if (k - begin) % interval)


def _units(sites: Sequence[Site], grain: str, level: int, roles: Sequence[str]) -> list[Site]:
    stages = [s for s in sites if s.grain == "stage"]
    if grain == "branch":
        return [s for s in sites if s.grain == "branch" and s.role in roles]
    if (grain == "stage") != bool(stages):
        what = "blocks on a U-Net, whose stages" if stages else "stages on a transformer, whose blocks do not"
        raise OrnsteinError(f"StepReuse(grain='{grain}') does not fit: it asks for {what} change the resolution",
                            f"Use grain={'stage' if stages else 'block'} or grain=branch.")  # fmt: skip
    if grain == "block":
        return [s for s in sites if s.grain == "block"]
    down, mid, up = ([s for s in stages if s.role == role] for role in ("down", "mid", "up"))
    if not 0 < level < len(up):
        raise OrnsteinError(f"StepReuse(level={level}) on a U-Net of {len(up)} levels", f"Take 1 to {len(up) - 1}.")
    return [*down[level:], *mid, *up[: len(up) - level]]  # the last one's output is what the outer levels read


def _key(site: Site) -> str:
    """Stages inherit together: what is inside of an inherited one is not needed."""
    return "inner stages" if site.grain == "stage" else site.name


@dataclass(frozen=True)
class _Probe:
    """Writes down how far each unit's value moves from step to step; computes everything."""

    part: StepReuse
    moved: dict  # (step, unit) -> the largest change of the branches of guidance
    effects: ClassVar[Effects] = Effects()

    def select(self, sites: Sequence[Site]) -> list[Site]:
        found = self.part.select(sites)
        return [s for s in found if s.role == "up"][-1:] if self.part.grain == "stage" else found

    def start(self) -> dict[str, Tensor]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        out = run(streams)
        if clock.evaluation == 0:
            now, old = lead(minus(out, streams, site) if self.part.grain == "block" else out).float(), memory.get(site.name)
            change = float((now - old).norm() / old.norm()) if old is not None else float("inf")
            key, memory[site.name] = (clock.step, _key(site)), now
            self.moved[key] = max(change, self.moved.get(key, 0.0))
        return out


def calibrate(denoiser: Any, shape: Sequence[int], solver: Any, steps: int, threshold: float, part: StepReuse | None = None,
              cond: Any = None, seed: int = 0, rule: str = "uniform") -> Artefact:  # fmt: skip
    """The schedule of one run in full. shape: [B, ...]; threshold: summed relative change up to which a unit inherits;
    part: says the grain, level and roles."""
    part, net, moved = part or StepReuse(), denoiser, {}
    while hasattr(net, "denoiser"):
        net = net.denoiser
    detach = attach(net.backbone, _Probe(part, moved))
    try:
        sample(denoiser, shape, solver, steps, cond=cond, seed=seed, rule=rule)
    finally:
        detach()
    units = list(dict.fromkeys(u for _, u in moved))
    change = torch.tensor([[moved[k, u] for u in units] for k in range(steps)], dtype=torch.float64)
    settings = {"grain": part.grain, "level": part.level, "roles": list(part.roles), "units": units, "steps": steps,
                "threshold": threshold}  # fmt: skip
    arrays = {"inherits": _table(change, threshold), "change": change}
    return Artefact("stepreuse", arrays, settings, describe(denoiser, rule, shape[1:]))


def with_share(found: Artefact, share: float) -> Artefact:
    """The same measurement with the highest threshold at which no more than `share` of all units and steps inherit."""
    low, high = 0.0, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5 if low else high * 1e-3
        low, high = (low, middle) if _table(found.arrays["change"], middle).double().mean() > share else (middle, high)
        if not low and high < 1e-12:
            break
    arrays = {**found.arrays, "inherits": _table(found.arrays["change"], low)}
    return replace(found, arrays=arrays, settings={**found.settings, "threshold": low})


def _table(change: Tensor, threshold: float) -> Tensor:
    """Which units [steps, units] inherit, from their changes."""
    inherits, total = torch.zeros(change.shape, dtype=torch.bool), torch.zeros(change.shape[1], dtype=change.dtype)
    for k in range(1, len(change)):
        total = total + change[k]
        inherits[k] = total < threshold
        total = torch.where(inherits[k], total, 0.0)
    return inherits
