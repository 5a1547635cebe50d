"""Accelerations side by side on shipped models and on an exact network, beside what as much buys in fewer steps.

Each acceleration with the settings with which its evidence says that it skips: FLOPs as they are done, distance to the full
run of DDIM and to the solved equation, seconds. Beside it fewer steps of DDIM and of two solvers of the second order, and the
network's answer kept, at the same FLOPs and in the same seconds, rounded up to a whole step. With peers, the caches of
diffusers and ours on one transformer of random weights.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import guide
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import sample
from ornstein.core.record import write_atomic
from ornstein.core.seam import Run, attach
from ornstein.cost import flops, now
from ornstein.evidence.acceleration._ground import Reuse

__all__ = ["Bench", "Ground", "Line", "PeerLine", "Settings", "accelerations"]

CPU = torch.device("cpu")
MANY, TRUTH = 100, "dpmpp2m"  # steps and solver of the solved equation
KEPT = "kept"  # the network's last answer, of steps evenly spread
OTHERS = {"ddim": ("ddim", "uniform"), "dpmpp2m": ("dpmpp2m", "uniform"), "deis:points=2": ("deis:points=2", "beta"),
          KEPT: ("ddim", "uniform")}  # fmt: skip
# parts that learn: the field that takes what they learned, a file of models/digits that has their name
SHIPPED = {"elastic": "routers", "dydit": "routers", "ilf": "predictor"}
GUIDED = 2.0  # scale of guidance of the walk for caches that want one
FORMAT = 2


@dataclass(frozen=True)
class Ground:
    """A model to measure on. prompts: in turn, one for each sample; none: the exact network, without a condition."""

    kind: str  # what the evidence says that a part fits
    what: str  # one sentence about it
    prompts: tuple[str, ...] = ()
    each: int = 4  # samples per seed
    seeds: int = 100  # at most
    tries: int = 100  # of the clock, at most
    timed: int = 100  # seeds in the clock's runs, at most


WORDS = "red apple", "birthday cake", "fox", "snowman", "rocket", "sunflower", "ghost", "blue heart"
DATA, WIDTH = 112, 0.5  # digits in the exact network, and how far each of them is smeared
GROUNDS = {
    "digits": Ground("dit", "The shipped transformer of 6 blocks on 16 tokens.", tuple("0123456789")),
    "digits-unet": Ground("unet", "The shipped U-Net.", tuple("0123456789")),
    "exact": Ground("dit", f"The exact denoiser of {DATA} digits, each smeared by {WIDTH:g}, as a stem and 6 blocks of attention "
                    "to a seventh of them each (testbeds.Network): nothing is learned, and the equation is solved in closed form. "
                    "Its products are so small that its seconds are Python's."),
    "emoji": Ground("dit", "The shipped transformer of 8 blocks on 64 tokens, told by text, under its plan's cfg:scale=3; every "
                    "step asks it twice.", WORDS, 2, 4, 2, 1),
}  # fmt: skip
QUICK = "digits", "digits-unet", "exact"


@dataclass(frozen=True)
class Settings:
    """What is measured. only: names, or names with settings of one's own; empty: all. models: names of GROUNDS."""

    steps: int = 20  # of the full run
    seeds: int = 4  # groups of samples, for the spread
    tries: int = 5  # of the clock
    only: tuple[str, ...] = ()
    peers: bool = False
    models: tuple[str, ...] = QUICK

    def __post_init__(self) -> None:
        if wrong := [m for m in self.models if m not in GROUNDS]:
            raise unknown("model of this benchmark", wrong[0], GROUNDS)
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
    and to the solved equation, per seed; others, hasty: what as many FLOPs and as many seconds buy otherwise, by name."""

    model: str
    name: str
    flops: float
    seconds: float
    full: tuple[float, ...]
    exact: tuple[float, ...]
    others: dict[str, Other] = field(default_factory=dict)
    hasty: dict[str, Other] = field(default_factory=dict)

    def beaten(self, truth: str = "exact", spent: str = "others") -> list[str]:
        """The other ways of spending as much that come nearer to 'full' or to 'exact', by the mean."""
        return [n for n, o in getattr(self, spent).items() if mean(getattr(o, truth)) <= mean(getattr(self, truth))]


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
    """What was measured, and what was left out and why. known: by model how far another solver in many steps ends from the
    solved equation: what is nearer than that is not told apart."""

    settings: Settings
    lines: list[Line] = field(default_factory=list)
    peers: list[PeerLine] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- what is compared


def contenders(only: Sequence[str] = (), steps: int = 20, models: Sequence[str] = QUICK) -> list[tuple[str, str, Any]]:
    """(model, name as it is told, part) of every acceleration on every model that it fits. What it learned is taken from
    the package where it ships for this model; lists of steps are made for so many steps."""
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
            for model in (m for m in models if GROUNDS[m].kind in fits):
                told, spec = (text, text) if ":" in text else _usual(entry.name, trial, steps, model)
                found.append((model, told, catalog.build("acceleration", spec)))
    return found


def _usual(name: str, trial: str, steps: int, model: str = "") -> tuple[str, Any]:
    """How it is told, and its specification."""
    if name in SHIPPED and model == "digits":
        weights = catalog.ROOT / "models" / "digits" / f"{name}.safetensors"
        return f"{name}, as shipped for digits", {"name": name, SHIPPED[name]: weights}
    if name == "skip":  # every third block in the odd steps
        return "skip, blocks 2 and 4 in odd steps", {"name": name, "blocks": tuple(((), (2, 4))[k % 2] for k in range(steps))}
    if name == "switch":  # the evidence's table, again and again
        table = tuple((0, 2, 1, 0, 0, 2, 1, 0, 1, 0)[k % 10] for k in range(steps))
        return "switch, without 2, or 1 and 2", {"name": name, "subnets": ((), (2,), (1, 2)), "table": table}
    if name == "stepreuse":
        return "stepreuse, odd steps", {"name": name, "at": tuple(range(1, steps, 2))}
    return f"{name}:{trial}", f"{name}:{trial}"


# ---- how


@cache
def _ready(model: str) -> tuple[Any, Any, tuple[int, ...], Callable[[int], Any]]:
    """Denoiser, guided as the model's plan is, its network, the shape of a sample, and the conditions of so many."""
    ground = GROUNDS[model]
    if not ground.prompts:
        from ornstein.testbeds import Network

        network = Network(_data(), catalog.build("processes", "flow"), WIDTH)
        return network.denoiser, network, tuple(network.shape), lambda n: None
    from ornstein.model import load

    loaded = load(model)
    denoiser = guide(loaded.denoiser, *(catalog.build("guidance", g) for g in loaded.plan().guidance))
    words = ground.prompts
    return denoiser, loaded.backbone, tuple(loaded.shape), lambda n: loaded.encode([words[k % len(words)] for k in range(n)])


def _data() -> Tensor:
    return catalog.build("data", "digits").images()[:DATA]


def _seed(model: str, seeds: int) -> list[int]:
    return [k // GROUNDS[model].each for k in range(seeds * GROUNDS[model].each)]


def _draw(model: str, part: Any, steps: int, seeds: int, solver: str = "ddim", rule: str = "uniform") -> Tensor:
    """[seeds * each, ...], with the part attached for this long."""
    (denoiser, network, shape, cond), seed = _ready(model), _seed(model, seeds)
    detach = attach(network, part) if part is not None else (lambda: None)
    try:
        return sample(denoiser, (len(seed), *shape), catalog.build("solvers", solver), steps, rule=rule, run=Run(),
                      cond=cond(len(seed)), seed=seed)  # fmt: skip
    finally:
        detach()


def _counted(model: str, part: Any, steps: int, seeds: int) -> tuple[Tensor, int]:
    """Samples, and FLOPs of products and convolutions."""
    kept: list[Tensor] = []
    count = flops(lambda: kept.append(_draw(model, part, steps, seeds)))
    return kept[0], count


@cache
def _full(model: str, steps: int, seeds: int) -> tuple[Tensor, int]:
    return _counted(model, None, steps, seeds)


@cache
def _exact(model: str, seeds: int) -> Tensor:
    """The solved equation: by the closed form where there is one, else in many steps."""
    if GROUNDS[model].prompts:
        return _draw(model, None, MANY, seeds, TRUTH)
    from ornstein.testbeds import Mixture

    (denoiser, _, shape, _), seed = _ready(model), _seed(model, seeds)
    start = NoiseSource.of(seed, range(len(seed))).draw(-1, torch.empty(len(seed), *shape))
    mixture = Mixture(_data().flatten(1), torch.tensor(WIDTH), denoiser.process)
    return mixture.exact(denoiser.process.prior(start).flatten(1), steps=MANY).reshape(start.shape)


def _distances(x: Tensor, truth: Tensor, each: int) -> tuple[float, ...]:
    """Relative L2 per seed."""
    x, truth = (v.reshape(len(v) // each, -1) for v in (x, truth))
    return tuple(float(f"{d:.5g}") for d in ((x - truth).norm(dim=1) / truth.norm(dim=1)).tolist())


@cache
def _other(model: str, name: str, n: int, steps: int, seeds: int) -> Other:
    n = min(n, steps) if name == KEPT else n
    kept = Reuse(Fraction(steps, n)) if name == KEPT else None
    x, each = _draw(model, kept, steps if kept else n, seeds, *OTHERS[name]), GROUNDS[model].each
    return Other(n, _distances(x, _full(model, steps, seeds)[0], each), _distances(x, _exact(model, seeds), each))


def _seconds(model: str, part: Any, settings: Settings) -> float:
    """Seconds with the part over those without, the median over tries that follow one another at once."""
    ratios, ground = [], GROUNDS[model]
    for k in range(min(settings.tries, ground.tries) + 1):
        spent = {}
        for what in (None, part) if k % 2 else (part, None):
            began = now(CPU)
            _draw(model, what, settings.steps, min(settings.seeds, ground.timed))
            spent[what is None] = now(CPU) - began
        ratios.append(spent[False] / spent[True])
    return statistics.median(ratios[1:])  # the first one warms up


def measure(model: str, told: str, part: Any, settings: Settings) -> Line:
    """One line of the table. What saves nothing has no others in as many seconds."""
    steps, seeds, each = settings.steps, min(settings.seeds, GROUNDS[model].seeds), GROUNDS[model].each
    (x, done), (full, whole) = _counted(model, part, steps, seeds), _full(model, steps, seeds)
    share, exact = done / whole, _distances(x, _exact(model, seeds), each)
    seconds, spent = _seconds(model, part, settings), []
    for cost in (share, seconds if saves(share, steps) else 0):
        n = max(1, math.ceil(cost * steps - 0.01))
        spent.append({name: _other(model, name, n, steps, seeds) for name in OTHERS if cost})
    return Line(model, told, share, seconds, _distances(x, full, each), exact, *spent)


def known(model: str, settings: Settings) -> float:
    """How far from the solved equation another solver in as many steps ends."""
    return mean(_other(model, "deis:points=2", MANY, settings.steps, min(settings.seeds, GROUNDS[model].seeds)).exact)


def saves(share: float, steps: int) -> bool:
    """Half a step or more."""
    return share <= 1 - 0.5 / steps


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
    """Measure all; progress(done, total, what) after each line. With a folder `out`, the report is written there, with what
    an earlier one has of other models."""
    plan, bench = contenders(settings.only, settings.steps, settings.models), Bench(settings)
    total = len(plan) + settings.peers
    for done, (model, told, part) in enumerate(plan, 1):
        try:
            bench.lines.append(measure(model, told, part, settings))
        except OrnsteinError as error:
            bench.left_out[f"{told} on {model}"] = str(error)
        if progress is not None:
            progress(done, total, f"{model}: {told}")
    bench.known = {m: known(m, settings) for m in dict.fromkeys(line.model for line in bench.lines)}
    if settings.peers:
        bench.peers = peer_lines(settings)
        if progress is not None:
            progress(total, total, "caches of diffusers")
    if out:
        bench = joined(bench, out / "acceleration.json")
    places = list(GROUNDS)
    bench.lines.sort(key=lambda line: (places.index(line.model), mean(line.full)))
    if out:
        report(bench, out)
    return bench


def joined(bench: Bench, file: Path) -> Bench:
    """With the lines of other models, and the peers, that the file has under the same settings."""
    told = json.loads(file.read_bytes()) if file.is_file() else {}
    mine = bench.settings
    alike = ("steps", "seeds", "tries", "only")
    if told.get("format") != FORMAT or any(_read(told["settings"][k]) != getattr(mine, k) for k in alike):
        return bench
    before = [line for line in told["lines"] if line["model"] not in mine.models]
    lines = [Line(**{k: _read(v) for k, v in line.items()}) for line in before]
    left = {k: v for k, v in told["left_out"].items() if k.rpartition(" on ")[2] not in mine.models}
    peers = bench.peers or [PeerLine(**p) for p in told["peers"]]
    models = {*mine.models, *told["settings"]["models"]}
    settings = replace(mine, peers=bool(peers), models=tuple(m for m in GROUNDS if m in models))
    return Bench(settings, bench.lines + lines, peers, bench.left_out | left, told["known"] | bench.known)


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: Other(v["steps"], tuple(v["full"]), tuple(v["exact"])) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value


# ---- what is told


def report(bench: Bench, out: Path) -> list[Path]:
    """acceleration.json and acceleration.md."""
    out.mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, **asdict(bench), "torch": torch.__version__, "threads": torch.get_num_threads()}
    files = [out / "acceleration.json", out / "acceleration.md"]
    write_atomic(files[0], (json.dumps(told, indent=1) + "\n").encode())
    write_atomic(files[1], markdown(bench).encode())
    return files


COLUMNS = ("acceleration", "FLOPs", "seconds", "steps", *(f"{n}{w}" for w in ("", " *") for n in ("itself", *OTHERS)),
           "in as many seconds", "in as many seconds *")  # fmt: skip


def cells(line: Line, mark: Callable[[str], str]) -> list[str]:
    """One row under COLUMNS: the nearest of each five is marked; the second five are to the solved equation. Then the nearest
    of what as many seconds buy, marked where it is nearer than the acceleration."""
    row = [line.name, f"{line.flops:.2f}", f"{line.seconds:.2f}", str(next(iter(line.others.values())).steps)]
    for truth in ("full", "exact"):
        values = [mean(getattr(v, truth)) for v in (line, *line.others.values())]
        row += [mark(f"{v:.3g}") if v == min(values) else f"{v:.3g}" for v in values]
    for truth in ("full", "exact"):
        best = min(line.hasty.items(), key=lambda o: mean(getattr(o[1], truth)), default=None)
        told = f"{mean(getattr(best[1], truth)):.3g}, {best[0]} {best[1].steps}" if best else ""
        row.append(mark(told) if line.beaten(truth, "hasty") else told)
    return row


def legend(settings: Settings) -> str:
    return (f"FLOPs and seconds over those of the full run, ddim with {settings.steps} steps; steps: what as many FLOPs buy, "
            "rounded up (deis on the beta grid; kept: the network's answer of that many steps, evenly spread, for all, which for "
            "ddim is a coarser grid); then the relative L2 distance to the full run, and under * to the solved equation, "
            f"{TRUTH} with {MANY} steps, mean over seeds; last the nearest of what as many seconds buy, with its steps. Seconds "
            "are of these small models, where what a part adds to the network weighs most.")  # fmt: skip


def about(model: str, bench: Bench) -> str:
    g = GROUNDS[model]
    seeds, tries = min(bench.settings.seeds, g.seeds), min(bench.settings.tries, g.tries)
    near = f" From the solved equation {MANY} steps of deis:points=2 end {bench.known[model]:.2g}: nearer is not told apart."
    return f"{g.what} Seeds: {seeds}, of {g.each} samples each; tries of the clock: {tries}.{near if model in bench.known else ''}"


def markdown(bench: Bench) -> str:
    lines = ["# Accelerations beside fewer steps", "", "`ornstein bench acceleration`; the emoji, which take minutes, by `--model "
             f"emoji`. {legend(bench.settings)} **Bold**: the nearest of the row.", *_tables(bench)]  # fmt: skip
    if bench.peers:
        lines += ["", "## Beside the caches of diffusers", "", PEERS, "", "| cache | of | FLOPs | seconds | distance |",
                  "|---|---|---|---|---|"]  # fmt: skip
        lines += [f"| {p.name} | {p.whose} | {p.flops:.2f} | {p.seconds:.2f} | {p.full:.3g} |" for p in bench.peers]
    if bench.left_out:
        lines += ["", "## Left out", "", *(f"- {why}" for why in _reasons(bench))]
    return "\n".join(lines) + "\n"


PEERS = ("On one DiT of diffusers with random weights, the same start and Euler steps; FLOPs and seconds over those of the full "
         "walk, fused attention not counted; distance: relative L2 to the full walk. Settings differ, so read cost and distance "
         "together. MagCache, ours and theirs, has the ratios measured on this network; FasterCache needs guidance (scale "
         f"{GUIDED:g}, both branches in one batch), and is compared with the full guided walk.")


def _reasons(bench: Bench) -> list[str]:
    """What was left out, together where the reason is one."""
    found: dict[str, list[str]] = {}
    for name, why in bench.left_out.items():
        found.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in found.items()]


def _tables(bench: Bench) -> list[str]:
    lines = []
    for model in dict.fromkeys(line.model for line in bench.lines):
        mine = [line for line in bench.lines if line.model == model]
        lines += ["", f"## {model}", "", about(model, bench), "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|---" * len(COLUMNS) + "|")
        lines += ["| " + " | ".join(cells(line, lambda v: f"**{v}**")) + " |" for line in mine]
        lines += ["", verdict(mine, bench.settings.steps)]
    return lines


def verdict(lines: Sequence[Line], steps: int) -> str:
    """Two sentences: how many of those that save half a step or more beat all that as many FLOPs, and seconds, buy."""
    real, told = [line for line in lines if saves(line.flops, steps)], []
    for spent, what in (("others", "FLOPs"), ("hasty", "seconds")):
        parts = []
        for truth, goal in (("full", "stay nearer to the full run than all else"), ("exact", "to the solved equation")):
            names = [line.name.partition(":")[0].partition(",")[0] for line in real if not line.beaten(truth, spent)]
            parts.append(f"{len(names)} of {len(real)} {goal}{': ' if names else ''}{', '.join(names)}")
        told.append(f"Of as many {what}, {'; '.join(parts)}.")
    if idle := [line.name.partition(":")[0] for line in lines if line not in real]:
        told.append(f"Not counted, as they save less than half a step: {', '.join(idle)}.")
    return " ".join(told)


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
    for why in _reasons(bench):
        console.print(f"[dim]left out: {why}[/]")
