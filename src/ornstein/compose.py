"""Which accelerations go together: every pair on small networks, run or refused. `python -m ornstein.compose [FILE]`.

Each part has the settings with which its evidence says that it skips. A pair is put in order as a plan does it, attached and
drawn with; then each of the two is taken away, so that a part which does nothing beside the other is seen. Weights are random:
the figures say that both take part, not how good the pictures are.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import order
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.record import write_atomic
from ornstein.core.seam import Run, attach

__all__ = ["BACKBONES", "Pair", "matrix", "page", "parts", "try_pair"]

BACKBONES = {
    "dit": "dit:channels=1,patch=2,width=32,depth=4,heads=4,classes=10",
    "unet": "unet:channels=1,width=16,multipliers=(1,2),attention_levels=(1,),classes=10",
}
ROWS, STEPS = 8, 10
PAGE = catalog.ROOT.parent.parent / "docs" / "benchmarks" / "composition.md"


@dataclass(frozen=True)
class Pair:
    """What became of two parts on one network; `one` is asked first, and is the outer where both sit at one module."""

    one: str
    two: str
    backbone: str
    refused: str = ""  # why; empty: it works
    apart: bool = False  # refused as a plan, and yet the seam alone takes both: they sit at places that do not meet
    skipped: float = 0.0  # share of the asked sites that were not computed
    distance: float = 0.0  # relative L2 to the plain run
    without: tuple[float, float] = (0.0, 0.0)  # relative L2 to the run without `one`, and to that without `two`
    swapped: float = 0.0  # relative L2 to the run that was asked for the other way round; infinite where that is refused
    why_swapped: str = ""  # it is refused

    @property
    def idle(self) -> tuple[str, ...]:
        """The parts that change nothing beside the other, of those that are there to change something."""
        pairs = zip((self.one, self.two), self.without)
        return () if self.refused else tuple(n for n, gap in pairs if gap == 0 and n not in exact())


# ---- what is tried


@cache
def exact() -> frozenset[str]:
    """The accelerations that compute the same in another way."""
    names = [e.name for e in catalog.entries("acceleration")]
    return frozenset(n for n in names if getattr(_evidence(n), "EXACT", False))


def _evidence(name: str) -> Any:
    return importlib.import_module(f"ornstein.evidence.acceleration.{name}")


@cache
def parts(backbone: str) -> dict[str, str]:
    """Name -> how it is tried here, of the accelerations that fit the network."""
    found = {}
    for entry in catalog.entries("acceleration"):
        _, settings, fits = _evidence(entry.name).TRIAL
        if backbone in fits:
            found[entry.name] = f"{entry.name}:{settings}"
    return found


@cache
def network(backbone: str) -> nn.Module:
    """Random weights, small for the time, so that it changes slowly with it as a trained network does."""
    net = catalog.build("backbones", BACKBONES[backbone])
    source = torch.Generator().manual_seed(2)  # with it every part alone changes something
    for key, parameter in net.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=source) * (0.02 if key.startswith("time") else 0.12)
    return net.eval().requires_grad_(False)


def _draw(backbone: str, plugins: Sequence[Any], steps: int) -> tuple[Tensor, Run]:
    net, run = network(backbone), Run()
    detach = attach(net, plugins) if plugins else (lambda: None)
    try:
        denoiser = Denoiser(net, catalog.build("processes", "flow"), null=net.null_condition)
        return sample(denoiser, (ROWS, 1, 8, 8), catalog.build("solvers", "ddim"), steps, run=run, seed=0,
                      ids=tuple(range(ROWS)), cond={"label": torch.arange(ROWS) % 10}), run  # fmt: skip
    finally:
        detach()


@cache
def alone(backbone: str, name: str, steps: int) -> Tensor:
    """The samples with one part, or ('') with none."""
    return _draw(backbone, [_part(backbone, name)] if name else [], steps)[0]


def _part(backbone: str, name: str) -> Any:
    return catalog.build("acceleration", parts(backbone)[name])


def _gap(x: Tensor, y: Tensor) -> float:
    return 0.0 if torch.equal(x, y) else float((x - y).norm() / y.norm())


def try_pair(one: str, two: str, backbone: str, steps: int = STEPS) -> Pair:
    """Order, attach and draw; an OrnsteinError on the way is a refusal, any other error is a fault and is raised."""
    made = {name: _part(backbone, name) for name in (one, two)}
    try:
        ordered = order(list(made.values()))
    except OrnsteinError as error:
        return Pair(one, two, backbone, str(error), apart=_attaches(backbone, made.values()))
    names = tuple(next(n for n in made if made[n] is p) for p in ordered)
    try:
        x, run = _draw(backbone, ordered, steps)
    except OrnsteinError as error:
        return Pair(*names, backbone, str(error))
    other = order(list(made.values())[::-1])  # where nothing orders them, the user's order stands
    swapped, why = 0.0, ""
    if other[0] is not ordered[0]:
        try:
            swapped = _gap(_draw(backbone, other, steps)[0], x)
        except OrnsteinError as error:
            swapped, why = math.inf, str(error)
    without = tuple(_gap(x, alone(backbone, name, steps)) for name in names[::-1])
    distance = _gap(x, alone(backbone, "", steps))
    return Pair(*names, backbone, "", False, run.record.skipped(), distance, without, swapped, why)


def _attaches(backbone: str, plugins: Any) -> bool:
    try:
        attach(network(backbone), list(plugins))()
    except OrnsteinError:
        return False
    return True


def matrix(backbone: str, steps: int = STEPS, progress: Callable[[Pair], None] | None = None) -> list[Pair]:
    """Every pair of the parts that fit the network, in the order of their names."""
    found = []
    for one, two in combinations(parts(backbone), 2):
        found.append(try_pair(one, two, backbone, steps))
        if progress is not None:
            progress(found[-1])
    return found


# ---- what is told


def page(pairs: Sequence[Pair], steps: int = STEPS) -> str:
    """The page as Markdown: for each network the pairs that work with their figures, then who is refused and why."""
    lines = ["# Which accelerations go together", "",
             "Made by `python -m ornstein.compose`. Every pair of `acceleration/`, each with the settings with which its evidence "
             f"says that it skips, on small random networks ({ROWS} samples of 8x8, {steps} steps of ddim), in the order that "
             "`core.effects.order` derives; the first is asked first. *skipped*: share of the asked sites that were not "
             "computed. *distance*: relative L2 to the plain run. *without*: relative L2 to the run with one of the two taken "
             "away; 0 is a part that does nothing beside the other. *swapped*: relative L2 to the run that was asked for the "
             "other way round, 0 where that makes no difference. Weights are random: the figures say that both take part, not "
             "how good the pictures are."]  # fmt: skip
    for backbone in dict.fromkeys(p.backbone for p in pairs):
        mine = [p for p in pairs if p.backbone == backbone]
        lines += ["", f"## {backbone}", "", f"`{BACKBONES[backbone]}`: {len(mine)} pairs of {len(parts(backbone))} parts, "
                  f"{sum(not p.refused for p in mine)} work, {sum(bool(p.refused) for p in mine)} are refused, "
                  f"{sum(bool(p.idle) for p in mine)} run with a part that does nothing."]  # fmt: skip
        lines += ["", *_working(mine), "", "### Refused", "", *_refused(backbone, mine)]
    lines += ["", "## Settings", "", "| part | settings | decides | fits |", "|---|---|---|---|"]
    fits = {n: [b for b in BACKBONES if n in parts(b)] for b in BACKBONES for n in parts(b)}
    for name in sorted(fits):
        text = parts(fits[name][0])[name]
        decides = ", ".join(sorted(_part(fits[name][0], name).effects.replaces))
        lines.append(f"| {name} | `{text}` | {decides} | {', '.join(fits[name])} |")
    return "\n".join(lines) + "\n"


def _working(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "| first | then | skipped | distance | without the first | without the second | swapped | remark |"
    yield "|---|---|---|---|---|---|---|---|"
    for p in (p for p in pairs if not p.refused):
        remarks = [f"{n} changes nothing beside the other" for n in p.idle]
        remarks += [f"the other way round: {p.why_swapped}"] if p.why_swapped else []
        remark = "; ".join(remarks)
        figures = " | ".join(f"{v:.2g}" if v < math.inf else "refused" for v in (p.distance, *p.without, p.swapped))
        yield f"| {p.one} | {p.two} | {p.skipped:.2f} | {figures} | {remark} |"


def _refused(backbone: str, pairs: Sequence[Pair]) -> Iterator[str]:
    """Owners of one thing as groups of which any two are refused, the others one by one."""
    owners: dict[str, set[str]] = {}
    yield "| refused | why |"
    yield "|---|---|"
    others = []
    for p in (p for p in pairs if p.refused):
        both = _part(backbone, p.one).effects.replaces & _part(backbone, p.two).effects.replaces
        for what in both:
            owners.setdefault(what, set()).update((p.one, p.two))
        others += [] if both else [p]
    for what, names in sorted(owners.items()):
        yield f"| any two of {', '.join(sorted(names))} | both would decide {what} |"
    for p in others:
        yield f"| {p.one}, {p.two} | {p.refused} |"
    apart = [f"{p.one} and {p.two}" for p in pairs if p.apart]
    if apart:
        yield ""
        yield f"These sit at places that do not meet, and `attach` without a plan takes them: {'; '.join(apart)}."


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    pairs = [p for backbone in BACKBONES for p in matrix(backbone)]
    target = Path(arguments[0]) if arguments else PAGE
    write_atomic(target, page(pairs).encode())
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
