"""Accelerations side by side on the shipped digits models, beside what as many FLOPs buy in fewer steps.

Each acceleration with the settings with which its evidence says that it skips: FLOPs as they are done, distance to the full
run of DDIM and to the solved equation, seconds. Beside it fewer steps of DDIM and of two solvers of the second order, at the
same FLOPs rounded up to a whole step. With peers, the caches of diffusers and ours on one transformer of random weights.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.record import write_atomic
from ornstein.core.seam import Run, attach
from ornstein.cost import flops

__all__ = ["Bench", "Line", "PeerLine", "Settings", "accelerations"]

MODELS = {"dit": "digits", "unet": "digits-unet"}
EACH, MANY, TRUTH = 4, 100, "dpmpp2m"  # samples per seed; steps and solver of the solved equation
OTHERS = {"ddim": ("ddim", "uniform"), "dpmpp2m": ("dpmpp2m", "uniform"), "deis:points=2": ("deis:points=2", "beta")}
# parts that learn: the field that takes what they learned, a file of models/digits that has their name
SHIPPED = {"elastic": "routers", "dydit": "routers", "ilf": "predictor"}
GUIDED = 2.0  # scale of guidance of the walk for caches that want one
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What is measured. only: names, or names with settings of one's own; empty: all."""

    steps: int = 20  # of the full run
    seeds: int = 4  # groups of samples, for the spread
    tries: int = 5  # of the clock
    only: tuple[str, ...] = ()
    peers: bool = False

    def __post_init__(self) -> None:
        if min(self.steps - 1, self.seeds, self.tries) < 1:
            what = f"steps={self.steps}, seeds={self.seeds} and tries={self.tries} measure nothing"
            raise OrnsteinError(what, "Ask for at least two steps, one seed and one try.")


@dataclass(frozen=True)
class Other:
    """What fewer steps buy: distances per seed, relative L2."""

    steps: int
    full: tuple[float, ...]
    exact: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One acceleration on one model. flops, seconds: over those of the full run; full, exact: relative L2 to the full run
    and to the solved equation, per seed; others: what as many FLOPs buy otherwise, by name."""

    model: str
    name: str
    flops: float
    seconds: float
    full: tuple[float, ...]
    exact: tuple[float, ...]
    others: dict[str, Other] = field(default_factory=dict)

    def beaten(self, truth: str = "exact") -> list[str]:
        """The other ways of spending as much that come nearer to 'full' or to 'exact', by the mean."""
        return [n for n, o in self.others.items() if mean(getattr(o, truth)) <= mean(getattr(self, truth))]


@dataclass(frozen=True)
class PeerLine:
    """One cache on the transformer of random weights, whose it is, and what it made of it (see bridges.layers.caches)."""

    name: str
    whose: str
    flops: float
    seconds: float
    full: float


@dataclass
class Bench:
    """What was measured, and what was left out and why."""

    settings: Settings
    lines: list[Line] = field(default_factory=list)
    peers: list[PeerLine] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- what is compared


def contenders(only: Sequence[str] = (), steps: int = 20) -> list[tuple[str, str, Any]]:
    """(backbone, name as it is told, part) of every acceleration on every model that it fits. What it learned is taken from
    the package where it ships; lists of steps are made for so many steps."""
    wanted: dict[str, list[str]] = {}
    for text in only:
        name = catalog.find(catalog.parse(text)[0], "acceleration").name
        wanted.setdefault(name, []).append(text)
    found = []
    for entry in catalog.entries("acceleration"):
        if only and entry.name not in wanted:
            continue
        _, trial, fits = importlib.import_module(f"ornstein.evidence.acceleration.{entry.name}").TRIAL
        for text in wanted.get(entry.name, [entry.name]):
            told, spec = (text, text) if ":" in text else _usual(entry.name, trial, steps)
            part = catalog.build("acceleration", spec)
            found += [(backbone, told, part) for backbone in MODELS if backbone in fits]
    return found


def _usual(name: str, trial: str, steps: int) -> tuple[str, Any]:
    """How it is told, and its specification."""
    if name in SHIPPED:
        weights = catalog.ROOT / "models" / "digits" / f"{name}.safetensors"
        return f"{name}, as shipped for digits", {"name": name, SHIPPED[name]: weights}
    if name == "skip":  # every third block in the odd steps
        return "skip, blocks 2 and 4 in odd steps", {"name": name, "blocks": tuple(((), (2, 4))[k % 2] for k in range(steps))}
    if name == "stepreuse":
        return "stepreuse, odd steps", {"name": name, "at": tuple(range(1, steps, 2))}
    return f"{name}:{trial}", f"{name}:{trial}"


# ---- how


@cache
def _denoiser(backbone: str) -> Any:
    from ornstein.model import load

    return load(MODELS[backbone]).denoiser


def _draw(backbone: str, part: Any, steps: int, seeds: int, solver: str = "ddim", rule: str = "uniform") -> Tensor:
    """[seeds * EACH, 1, 8, 8]: the digits 0 to 9 in turn, with the part attached for this long."""
    denoiser, n = _denoiser(backbone), seeds * EACH
    detach = attach(denoiser.backbone, part) if part is not None else (lambda: None)
    try:
        return sample(denoiser, (n, 1, 8, 8), catalog.build("solvers", solver), steps, rule=rule, run=Run(),
                      cond={"label": torch.arange(n) % 10}, seed=[k // EACH for k in range(n)])  # fmt: skip
    finally:
        detach()


def _counted(backbone: str, part: Any, steps: int, seeds: int) -> tuple[Tensor, int]:
    """Samples, and FLOPs of products and convolutions."""
    kept: list[Tensor] = []
    count = flops(lambda: kept.append(_draw(backbone, part, steps, seeds)))
    return kept[0], count


@cache
def _full(backbone: str, steps: int, seeds: int) -> tuple[Tensor, int]:
    return _counted(backbone, None, steps, seeds)


@cache
def _exact(backbone: str, seeds: int) -> Tensor:
    return _draw(backbone, None, MANY, seeds, TRUTH)


def _distances(x: Tensor, truth: Tensor) -> tuple[float, ...]:
    """Relative L2 per seed."""
    x, truth = (v.reshape(len(v) // EACH, -1) for v in (x, truth))
    return tuple(float(f"{d:.5g}") for d in ((x - truth).norm(dim=1) / truth.norm(dim=1)).tolist())


@cache
def _other(backbone: str, name: str, n: int, steps: int, seeds: int) -> Other:
    x = _draw(backbone, None, n, seeds, *OTHERS[name])
    return Other(n, _distances(x, _full(backbone, steps, seeds)[0]), _distances(x, _exact(backbone, seeds)))


def _seconds(backbone: str, part: Any, settings: Settings) -> float:
    """Seconds with the part over those without, the median over tries that follow one another at once."""
    ratios = []
    for k in range(settings.tries + 1):
        spent = {}
        for what in (None, part) if k % 2 else (part, None):
            began = time.perf_counter()
            _draw(backbone, what, settings.steps, settings.seeds)
            spent[what is None] = time.perf_counter() - began
        ratios.append(spent[False] / spent[True])
    return statistics.median(ratios[1:])  # the first one warms up


def measure(backbone: str, told: str, part: Any, settings: Settings) -> Line:
    """One line of the table."""
    steps, seeds = settings.steps, settings.seeds
    (full, whole), (x, done) = _full(backbone, steps, seeds), _counted(backbone, part, steps, seeds)
    share = done / whole
    n = max(1, math.ceil(share * steps - 0.01))
    others = {name: _other(backbone, name, n, steps, seeds) for name in OTHERS}
    exact = _distances(x, _exact(backbone, seeds))
    return Line(MODELS[backbone], told, share, _seconds(backbone, part, settings), _distances(x, full), exact, others)


def peer_lines(settings: Settings) -> list[PeerLine]:
    """The caches of diffusers and ours that are tried on its DiT, on one task."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        what = "diffusers is not installed, and its caches are asked for"
        raise OrnsteinError(what, "Install it, or leave out --peers.") from error
    from ornstein.bridges.layers import caches

    job, mine = caches.task(steps=settings.steps), {}
    guided, ratios = replace(job, scale=GUIDED), caches.measured_ratios(job)
    names = {catalog.parse(text)[0] for text in settings.only}
    for entry in catalog.entries("acceleration"):
        evidence = importlib.import_module(f"ornstein.evidence.acceleration.{entry.name}")
        if "DiTTransformer2DModel" in getattr(evidence, "FOREIGN", ()) and (not names or entry.name in names):
            told, spec = _usual(entry.name, evidence.TRIAL[1], settings.steps)
            if entry.name == "magcache":
                told, spec = "magcache, measured ratios", {"name": "magcache", "ratios": ratios}
            if entry.name not in SHIPPED:  # what was learned on the digits is of another network
                mine[told] = catalog.build("acceleration", spec)
    both = caches.peers(guided, tries=settings.tries, only=("FasterCache",))
    found = [(caches.peers(job, ratios, settings.tries), "diffusers"), (caches.own(job, mine, settings.tries), "ornstein"),
             ({f"{n}, guided": p for n, p in both.items()}, "diffusers")]  # fmt: skip
    lines = [PeerLine(n, whose, p.cost, 1 / p.gain, p.distance) for made, whose in found for n, p in made.items()]
    return sorted(lines, key=lambda p: p.full)


def accelerations(settings: Settings, out: Path | None = None,
                  progress: Callable[[int, int, str], None] | None = None) -> Bench:  # fmt: skip
    """Measure all; progress(done, total, what) after each line. With a folder `out`, the report is written there."""
    plan, bench = contenders(settings.only, settings.steps), Bench(settings)
    total = len(plan) + settings.peers
    for done, (backbone, told, part) in enumerate(plan, 1):
        try:
            bench.lines.append(measure(backbone, told, part, settings))
        except OrnsteinError as error:
            bench.left_out[f"{told} on {MODELS[backbone]}"] = str(error)
        if progress is not None:
            progress(done, total, f"{MODELS[backbone]}: {told}")
    bench.lines.sort(key=lambda line: (line.model, mean(line.full)))
    if settings.peers:
        bench.peers = peer_lines(settings)
        if progress is not None:
            progress(total, total, "caches of diffusers")
    if out:
        report(bench, out)
    return bench


# ---- what is told


def report(bench: Bench, out: Path) -> list[Path]:
    """acceleration.json and acceleration.md."""
    out.mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, **asdict(bench), "torch": torch.__version__, "threads": torch.get_num_threads()}
    files = [out / "acceleration.json", out / "acceleration.md"]
    write_atomic(files[0], (json.dumps(told, indent=1) + "\n").encode())
    write_atomic(files[1], markdown(bench).encode())
    return files


COLUMNS = ("acceleration", "FLOPs", "seconds", "steps", *(f"{n}{w}" for w in ("", " *") for n in ("itself", *OTHERS)))


def cells(line: Line, mark: Callable[[str], str]) -> list[str]:
    """One row under COLUMNS: the nearest of each four is marked; the second four are to the solved equation."""
    row = [line.name, f"{line.flops:.2f}", f"{line.seconds:.2f}", str(next(iter(line.others.values())).steps)]
    for truth in ("full", "exact"):
        values = [mean(getattr(v, truth)) for v in (line, *line.others.values())]
        row += [mark(f"{v:.3g}") if v == min(values) else f"{v:.3g}" for v in values]
    return row


def legend(settings: Settings) -> str:
    return (f"FLOPs and seconds over those of the full run, ddim with {settings.steps} steps; steps: what as many FLOPs buy, "
            "rounded up (deis on the beta grid); then the relative L2 distance to the full run, and under * to the solved "
            f"equation, {TRUTH} with {MANY} steps, mean over {settings.seeds} seeds of {EACH} digits. Seconds (tries: "
            f"{settings.tries}) are of these small models, where what a part adds to the network weighs most.")  # fmt: skip


def markdown(bench: Bench) -> str:
    lines = ["# Accelerations beside fewer steps", "", f"`ornstein bench acceleration`. {legend(bench.settings)} **Bold**: the "
             "nearest of the row.", *_tables(bench)]  # fmt: skip
    if bench.peers:
        lines += ["", "## Beside the caches of diffusers", "", PEERS, "", "| cache | of | FLOPs | seconds | distance |",
                  "|---|---|---|---|---|"]  # fmt: skip
        lines += [f"| {p.name} | {p.whose} | {p.flops:.2f} | {p.seconds:.2f} | {p.full:.3g} |" for p in bench.peers]
    if bench.left_out:
        lines += ["", "## Left out", "", *(f"- {name}: {why}" for name, why in bench.left_out.items())]
    return "\n".join(lines) + "\n"


PEERS = ("On one DiT of diffusers with random weights, the same start and Euler steps; FLOPs and seconds over those of the full "
         "walk, fused attention not counted; distance: relative L2 to the full walk. Settings differ, so read cost and distance "
         "together. MagCache, ours and theirs, has the ratios measured on this network; FasterCache needs guidance (scale "
         f"{GUIDED:g}, both branches in one batch), and is compared with the full guided walk.")


def _tables(bench: Bench) -> list[str]:
    lines = []
    for model in dict.fromkeys(line.model for line in bench.lines):
        mine = [line for line in bench.lines if line.model == model]
        lines += ["", f"## {model}", "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(cells(line, lambda v: f"**{v}**")) + " |" for line in mine]
        lines += ["", verdict(mine, bench.settings.steps)]
    return lines


def verdict(lines: Sequence[Line], steps: int) -> str:
    """One sentence: how many of those that save half a step or more beat everything that as many FLOPs buy."""
    real = [line for line in lines if line.flops <= 1 - 0.5 / steps]
    told = []
    for truth, what in (("full", "stay nearer to the full run than all fewer steps"), ("exact", "to the solved equation")):
        names = [line.name.partition(":")[0] for line in real if not line.beaten(truth)]
        told.append(f"{len(names)} of {len(real)} {what}{': ' if names else ''}{', '.join(names)}")
    idle = [line.name.partition(":")[0] for line in lines if line not in real]
    return "; ".join(told) + (f". Not counted, as they save less than half a step: {', '.join(idle)}." if idle else ".")


def show(bench: Bench, console: Any, table: Callable[..., Any]) -> None:
    """The same on a terminal. table(*columns) makes an empty table."""
    for model in dict.fromkeys(line.model for line in bench.lines):
        mine = [line for line in bench.lines if line.model == model]
        made = table(*COLUMNS)
        made.title, made.title_justify = f"[bold]{model}[/]", "left"
        for line in mine:
            made.add_row(*cells(line, lambda v: f"[bold green]{v}[/]"))
        console.print(made, verdict(mine, bench.settings.steps), "", sep="\n")
    if bench.peers:
        made = table("cache", "of", "FLOPs", "seconds", "distance")
        for p in bench.peers:
            made.add_row(p.name, p.whose, f"{p.flops:.2f}", f"{p.seconds:.2f}", f"{p.full:.3g}")
        console.print(made, f"[dim]{PEERS}[/]", "", sep="\n")
    console.print(f"[dim]{legend(bench.settings)}[/]" if bench.lines else "")
    for name, why in bench.left_out.items():
        console.print(f"[dim]left out: {name}: {why}[/]")
