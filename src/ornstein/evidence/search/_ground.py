"""The common ground of the searches' evidence: starts to search on, other starts to judge on, and what needs no search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.artefact import Artefact
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import attach
from ornstein.evidence import Row
from ornstein.evidence.acceleration import _ground as digits
from ornstein.evidence.solvers import _ground as exact

STEPS, SEARCHED = 6, 64  # calls; mixture starts to search on
FEW, EACH, HELD, TRUE = 5, 10, 3, 30  # digits: calls, per seed, seeds to judge on, steps that stand for the solved equation
MIXTURE = "mixture, median distance to the exact end on starts not searched on (lower)"
DIGITS = f"digits, relative distance to {TRUE} steps of dpmpp2m on seeds not searched on (lower)"
GRIDS, SOLVERS = ("uniform", "karras", "logsnr"), ("ddim", "dpmpp2m")


def solver(found: Mapping[str, Tensor], other: Any) -> Any:
    """The solver that a schedule decides, or the other where it decides on times alone."""
    return catalog.build("solvers", {"name": "usf", "schedule": Artefact("schedule", found)} if "decisions" in found else other)


def mixture(found: Mapping[str, Any], other: Any = "dpmpp2m", held: bool = False) -> float:
    """Median distance to the exact end of the 16-dimensional mixture on VP."""
    world, start, ends = exact.ground("vp")
    rows = slice(SEARCHED, None) if held else slice(0, SEARCHED)
    x = sample(world, start[rows], solver(found, other), rule=found["times"], dtype=torch.float64)
    return (x - ends[rows]).square().mean(1).sqrt().median().item()


def _draw(times: Any, part: Any, seeds: Sequence[int]) -> Tensor:
    label = torch.arange(EACH).repeat(len(seeds)) % 10
    return sample(digits.model("dit")[0], (len(label), 1, 8, 8), part, rule=times, cond={"label": label},
                  seed=[s for s in seeds for _ in range(EACH)], ids=list(range(EACH)) * len(seeds))  # fmt: skip


@cache
def _truth() -> Tensor:
    """[(1 + HELD) * EACH, 64]: the seed that is searched on, then the others."""
    times = grid(digits.model("dit")[0].process, TRUE)
    return _draw(times, catalog.build("solvers", "dpmpp2m"), range(1 + HELD)).flatten(1)


def _apart(found: Mapping[str, Any], other: Any, seeds: Sequence[int]) -> list[float]:
    net, blocks = digits.model("dit")[0].backbone, "blocks" in found and bool(found["blocks"].any())
    part = {"name": "skip", "schedule": Artefact("schedule", found)}
    detach = attach(net, catalog.build("acceleration", part)) if blocks else (lambda: None)
    try:
        x = _draw(found["times"], solver(found, other), seeds).flatten(1)
    finally:
        detach()
    truth = _truth()[seeds[0] * EACH : (seeds[-1] + 1) * EACH]
    return ((x - truth).norm(dim=1) / truth.norm(dim=1)).reshape(len(seeds), EACH).mean(1).tolist()


def drawn(found: Mapping[str, Any], other: Any = "dpmpp2m") -> float:
    """Mean relative distance of the digits of seed 0 to the solved equation."""
    return _apart(found, other, (0,))[0]


def judged(found: Mapping[str, Any], other: Any = "dpmpp2m") -> list[float]:
    """The same on each seed that was not searched on."""
    return _apart(found, other, range(1, HELD + 1))


def times(rule: str, where: str) -> Tensor:
    if where == "mixture":
        return grid(exact.ground("vp")[0].process, STEPS, rule)
    return grid(digits.model("dit")[0].process, FEW, rule)


def fixed(solvers: Sequence[str] = SOLVERS) -> dict[str, list[Row]]:
    """The solvers on the grids that need no search: on the mixture one number, on the digits one per seed."""
    found: dict[str, list[Row]] = {"mixture": [], "digits": []}
    for name in solvers:
        for rule in GRIDS:
            kind = "natural" if rule == "uniform" else "equal-cost"
            value = mixture({"times": times(rule, "mixture")}, name, True)
            found["mixture"].append(Row(f"{name}, {rule}", kind, MIXTURE, [value], f"{STEPS} NFE"))
            value = judged({"times": times(rule, "digits")}, name)
            found["digits"].append(Row(f"{name}, {rule}", kind, DIGITS, value, f"{FEW} NFE"))
    return found
