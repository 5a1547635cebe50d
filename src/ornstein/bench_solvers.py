"""Solvers side by side at equal network calls, measured against exact solutions; with the schedulers of diffusers beside.

Every solver of the catalog that follows the ODE (one with an order), on the customary grids of each process, on denoisers
that are exact: a Gaussian mixture in 16 dimensions and the closed form of the digits. A solver that asks several times a
step gets fewer steps, so that no column compares unequal calls. Errors are distances to the end of the exact trajectory.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import sample
from ornstein.core.record import write_atomic
from ornstein.core.seam import Run

__all__ = ["Bench", "Cell", "Settings", "best", "solvers"]

NFE = (4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
QUICK_NFE = (5, 10, 20)
KINDS = ("mixture", "digits")
GRIDS = {  # the customary ones of each process first; even flow time is sway:s=0, which on the flow is uniform
    "flow": ("uniform", "beta", "logsnr"),
    "vp": ("uniform", "sway:s=0", "beta", "logsnr"),
    "edm": ("karras", "sway:s=0", "beta", "logsnr"),
}
ROWS = {"mixture": 32, "digits": 8}  # trajectories per seed
BANDWIDTH = 0.1  # of the digits' closed form, in units of the data: without it every end is a datum
PEER, OWN = "diffusers ", "its own"  # how a peer is named, and the grid of one that makes its own levels
FORMAT, SAVE = 1, 10.0  # of solvers.json; seconds between two savings
COLUMNS = ("kind", "process", "nfe", "solver", "grid", "calls", "error", "spread")


@dataclass(frozen=True)
class Settings:
    """What is measured. Quick: the mixture alone, three columns and three seeds, one grid."""

    nfe: tuple[int, ...] = NFE
    processes: tuple[str, ...] = tuple(GRIDS)
    seeds: int = 5
    quick: bool = False
    only: tuple[str, ...] = ()  # of these solvers; empty: all

    def __post_init__(self) -> None:
        for process in self.processes:
            if process not in GRIDS:
                raise unknown("process of the benchmark", process, GRIDS)
        if not self.nfe or min(self.nfe) < 1 or self.seeds < 1:
            what = f"nfe={list(self.nfe)} and seeds={self.seeds} are not all positive whole numbers"
            raise OrnsteinError(what, "Ask for at least one call and one seed.")

    def grounds(self) -> list[tuple[str, str]]:
        """(kind, process), in the order of the tables."""
        return [(k, p) for k in KINDS[: 1 if self.quick else None] for p in self.processes]

    def grids(self, process: str) -> tuple[str, ...]:
        return GRIDS[process][: 1 if self.quick else None]


@dataclass(frozen=True)
class Cell:
    """One measurement: the median distance to the exact end for each seed; none where the calls do not suffice."""

    kind: str
    process: str
    solver: str
    grid: str
    nfe: int  # how many calls were allowed
    seeds: int
    calls: int  # how many were made; 0 where none could be
    errors: tuple[float, ...] = ()
    mark: str = ""  # of the code that made it

    @property
    def key(self) -> tuple:
        return self.kind, self.process, self.solver, self.grid, self.nfe, self.seeds

    @property
    def error(self) -> float:
        """Mean over the seeds; infinite where there is nothing, or nothing finite."""
        mean = sum(self.errors) / len(self.errors) if self.errors else math.inf
        return mean if math.isfinite(mean) else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return torch.tensor(self.errors).std().item() if len(self.errors) > 1 and math.isfinite(self.error) else 0.0

    @property
    def peer(self) -> bool:
        return self.solver.startswith(PEER)


@dataclass
class Bench:
    """What was measured, and what was left out and why."""

    settings: Settings
    cells: list[Cell] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def rows(self, kind: str, process: str) -> list[list[Cell]]:
        """One row per solver, on the grid on which it is best over all columns, the best solver first."""
        rows: dict[str, list[list[Cell]]] = {}
        for cell in (c for c in self.cells if (c.kind, c.process) == (kind, process)):
            mine = rows.setdefault(cell.solver, [])
            if not mine or mine[-1][0].grid != cell.grid:
                mine.append([])
            mine[-1].append(cell)
        return sorted((min(grids, key=_score) for grids in rows.values()), key=_score)

    def winners(self, kind: str, process: str, peers: bool = True) -> dict[int, Cell]:
        """The best cell of each column, on any grid."""
        found: dict[int, Cell] = {}
        for cell in self.cells:
            if (cell.kind, cell.process) == (kind, process) and (peers or not cell.peer) and cell.error < math.inf:
                if cell.nfe not in found or cell.error < found[cell.nfe].error:
                    found[cell.nfe] = cell
        return found


def _score(row: Iterable[Cell]) -> float:
    """Mean of the logarithms of the errors; a missing one counts as 10."""
    logs = [math.log(min(max(c.error, 1e-12), 10.0)) for c in row]
    return sum(logs) / len(logs)


# ---- what is compared


def contenders(only: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The solvers of the catalog that have an order, in every order that they can be set to, and those left out."""
    found, left_out = [], {}
    for entry in catalog.entries("solvers"):
        if only and entry.name not in only:
            continue
        try:
            solver = catalog.build("solvers", entry.name)
        except (OrnsteinError, TypeError) as error:
            left_out[entry.name] = f"cannot be built without settings: {error}"
            continue
        if not solver.order:
            left_out[entry.name] = "a random walk: no exact end to measure against"
            continue
        found += [entry.name, *_variants(entry.name, solver)]
    if not found:
        what = f"nothing to compare: {'; '.join(f'{n} is {w}' for n, w in left_out.items()) or 'no such solver'}"
        raise OrnsteinError(what, "Name solvers that follow the ODE, such as ddim and dpmpp2m.")
    return found, left_out


def _variants(name: str, solver: Any) -> Iterator[str]:
    """Other orders from 2 to 3 that a solver can be set to, and the settings that its evidence names as VARIANTS."""
    evidence = importlib.import_module(f"ornstein.evidence.solvers.{name}")
    orders = [f"order={order}" for order in (2, 3) if "order" in {f.name for f in dataclasses.fields(solver) if f.init}]
    for settings in dict.fromkeys([*orders, *getattr(evidence, "VARIANTS", ())]):
        try:
            if catalog.build("solvers", f"{name}:{settings}") != solver:
                yield f"{name}:{settings}"
        except OrnsteinError:
            if settings not in orders:
                raise


@cache
def ground(kind: str, process: str, seeds: int) -> tuple[Any, Tensor, Tensor]:
    """An exact denoiser under the process, starts and the exact ends of their trajectories, [seeds * ROWS, ...] float64."""
    from ornstein.testbeds import ClosedForm, Mixture

    made = catalog.build("processes", process)
    if kind == "mixture":
        denoiser, shape = Mixture.random(made, dims=16), (16,)
    else:
        from ornstein.data.digits import Digits

        data = Digits("all").images().double()
        denoiser, shape = ClosedForm(data, made, bandwidth=BANDWIDTH), tuple(data.shape[1:])
    like = torch.empty(seeds * ROWS[kind], *shape, dtype=torch.float64)
    start = made.prior(NoiseSource.of(0, range(len(like))).draw(-1, like))
    return denoiser, start, denoiser.exact(start, steps=200) if kind == "mixture" else exact(denoiser, start)


@torch.no_grad()
def exact(denoiser: Any, start: Tensor, steps: int = 120) -> Tensor:
    """The end of the probability-flow ODE of a ClosedForm from the prior's `start`, by Runge and Kutta in float64.

    Every Gaussian process is the linear flow in y = x/(a+s), tau = s/(a+s); small steps near the data: tau = c sinh(u).
    """
    at = denoiser.process.at(denoiser.process.t_max, start)
    flow = dataclasses.replace(denoiser, process=catalog.build("processes", "flow"))
    y, c = start / (at.a + at.s), 0.03
    u, last = math.asinh(float(at.flow_time) / c), math.asinh(1e-5 / c)
    h = (last - u) / steps

    def slope(y: Tensor, u: float) -> Tensor:
        return flow(y, min(c * math.sinh(u), 1.0)).velocity * c * math.cosh(u)

    for k in range(steps):
        v = u + k * h
        k1 = slope(y, v)
        k2 = slope(y + h / 2 * k1, v + h / 2)
        k3 = slope(y + h / 2 * k2, v + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, v + h))
    return flow(y, 1e-5).x0  # the rest of the way is 1e-5 long


# ---- how


@lru_cache(maxsize=8192)
def _calls(solver: str, process: str, steps: int) -> int:
    """How often a solver asks in so many steps of the process's first grid, counted on a small Gaussian."""
    from ornstein.testbeds import Mixture

    gauss, run = Mixture(torch.zeros(1, 2), torch.tensor([0.5]), catalog.build("processes", process)), Run()
    sample(gauss, (1, 2), catalog.build("solvers", solver), steps, rule=GRIDS[process][0], run=run, dtype=torch.float64)
    return run.record.calls["evaluations"]


def _most(allowed: int, calls: Callable[[int], int]) -> int:
    """The largest number of steps, at most `allowed`, that does not ask more often than allowed; 0 where none."""
    low, high = 0, allowed
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if calls(middle) <= allowed else (low, middle - 1)
    return low


def _ours(kind: str, process: str, solver: str, rule: str, nfe: int, seeds: int) -> tuple[int, Tensor | None]:
    """Calls made and ends reached with at most `nfe` calls."""
    denoiser, start, _ = ground(kind, process, seeds)
    for steps in range(_most(nfe, lambda n: _calls(solver, process, n)), 0, -1):
        run = Run()
        ends = sample(denoiser, start, catalog.build("solvers", solver), steps, rule=rule, run=run)
        calls = run.record.calls["evaluations"]
        if calls <= nfe:
            return calls, ends
        if calls > 4 * nfe:  # it asks as it pleases
            break
    return 0, None


def _theirs(kind: str, process: str, solver: str, rule: str, nfe: int, seeds: int) -> tuple[int, Tensor | None]:
    from ornstein.bridges import peers

    denoiser, start, _ = ground(kind, process, seeds)
    name, rule = solver.removeprefix(PEER), "uniform" if rule == OWN else rule
    steps = _most(nfe, lambda n: peers.calls(process, name, denoiser.process, rule, n))
    if steps == 0:
        return 0, None
    calls = peers.calls(process, name, denoiser.process, rule, steps)
    return calls, peers.run(process, name, denoiser, start, rule, steps)


def measure(kind: str, process: str, solver: str, rule: str, nfe: int, seeds: int) -> Cell:
    """One cell of the tables."""
    how = _theirs if solver.startswith(PEER) else _ours
    calls, ends = how(kind, process, solver, rule, nfe, seeds)
    mark = _mark(solver)
    if ends is None:
        return Cell(kind, process, solver, rule, nfe, seeds, 0, (), mark)
    gap = (ends - ground(kind, process, seeds)[2]).flatten(1).square().mean(1).sqrt()
    errors = gap.reshape(seeds, -1).median(1)[0].tolist()
    return Cell(kind, process, solver, rule, nfe, seeds, calls, tuple(float(f"{e:.5g}") for e in errors), mark)


@cache
def _mark(solver: str) -> str:
    """Of the code that a cell depends on: the solver's file, what solvers share, the grids; or diffusers' version."""
    if solver.startswith(PEER):
        from ornstein.bridges import peers

        return peers.version()
    root = catalog.ROOT
    files = [root / "solvers" / f"{catalog.parse(solver)[0]}.py", *sorted((root / "solvers" / "layers").rglob("*.py")),
             *sorted((root / "grids").rglob("*.py"))]  # fmt: skip
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


def _plan(settings: Settings, names: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """(kind, process, solver, grid) of every row. The peers of the flow have their own grid alone."""
    from ornstein.bridges import peers

    with_peers = not settings.only and bool(peers.version())
    for kind, process in settings.grounds():
        theirs = [PEER + n for n in peers.PEERS[process]] if with_peers else []
        for solver in [*names, *theirs]:
            own = solver.startswith(PEER) and process == "flow"
            for rule in (OWN,) if own else settings.grids(process):
                yield kind, process, solver, rule


def solvers(settings: Settings, out: Path | None = None, progress: Callable[[int, int, str], None] | None = None) -> Bench:
    """Measure all; progress(done, total, what) after each row. With a folder `out`, what is finished is kept in its
    solvers.json and not measured again, and the report is written there too."""
    names, left_out = contenders(settings.only)
    if settings.quick:
        nfe = QUICK_NFE if settings.nfe == NFE else settings.nfe
        settings = dataclasses.replace(settings, nfe=nfe, seeds=min(settings.seeds, 3))
    known = _load(out / "solvers.json") if out else {}
    bench, plan, saved = Bench(settings, left_out=left_out), list(_plan(settings, names)), time.monotonic()
    try:
        for done, row in enumerate(plan, 1):
            if row[2] not in left_out:
                bench.cells += _row(row, settings, known, left_out)
            if out and time.monotonic() - saved > SAVE:
                _save(out / "solvers.json", known)
                saved = time.monotonic()
            if progress is not None:
                progress(done, len(plan), f"{row[0]}, {row[1]}: {row[2]}")
    finally:
        if out:
            _save(out / "solvers.json", known)
    if out:
        report(bench, out)
    return bench


def _row(row: tuple[str, str, str, str], settings: Settings, known: dict[tuple, Cell],
         left_out: dict[str, str]) -> list[Cell]:  # fmt: skip
    """The cells of one row: those that are known to come from the present code, and the others measured."""
    cells = []
    for nfe in settings.nfe:
        cell = known.get((*row, nfe, settings.seeds))
        if cell is None or cell.mark != _mark(row[2]):
            try:
                cell = measure(*row, nfe, settings.seeds)
            except OrnsteinError as error:
                left_out[row[2]] = str(error)
                return []
            known[cell.key] = cell
        cells.append(cell)
    return cells


# ---- what is kept and what is told


def _load(file: Path) -> dict[tuple, Cell]:
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}")
        made = (Cell(**c | {"errors": tuple(math.inf if e is None else e for e in c["errors"])}) for c in told["cells"])
        return {cell.key: cell for cell in made}
    except (ValueError, KeyError, TypeError) as error:
        raise OrnsteinError(f"{file} is not a table of this benchmark", "Give another --out, or remove it.") from error


def _save(file: Path, known: dict[tuple, Cell]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [vars(c) | {"errors": [e if math.isfinite(e) else None for e in c.errors]} for c in known.values()]
    lines = ",\n".join(json.dumps(c) for c in cells)
    write_atomic(file, f'{{"format": {FORMAT}, "cells": [\n{lines}\n]}}\n'.encode())


def report(bench: Bench, out: Path) -> list[Path]:
    """solvers.csv (each solver on its best grid, column by column), solvers.md, and solvers.png with matplotlib."""
    files = [out / "solvers.csv", out / "solvers.md"]
    write_atomic(files[0], _csv(bench).encode())
    write_atomic(files[1], _markdown(bench).encode())
    picture = _picture(bench)
    if picture:
        files.append(out / "solvers.png")
        write_atomic(files[-1], picture)
    return files


def _csv(bench: Bench) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    best_of: dict[tuple, Cell] = {}
    for c in bench.cells:
        place = (c.kind, c.process, c.nfe, c.solver)
        if c.error < math.inf and (place not in best_of or c.error < best_of[place].error):
            best_of[place] = c
    for c in sorted(best_of.values(), key=lambda c: (c.kind, c.process, c.nfe, c.error)):
        table.writerow([c.kind, c.process, c.nfe, c.solver, c.grid, c.calls, f"{c.error:.4g}", f"{c.spread:.2g}"])
    return text.getvalue()


def _markdown(bench: Bench) -> str:
    s = bench.settings
    lines = ["# Solvers at equal network calls", "",
             "`ornstein bench solvers`: median distance to the end of the exact trajectory (root mean square over the axes, "
             f"lower is better), mean over {s.seeds} seeds. Exact denoisers: a Gaussian mixture in 16 dimensions, and the "
             f"closed form of the digits with a bandwidth of {BANDWIDTH}. Every row is one solver on the grid on which it is "
             "best; a solver that asks several times a step takes fewer steps. **Bold**: the best of the column; *italic*: "
             "schedulers of diffusers on the same denoiser, start and levels (on the flow, on their own levels)."]  # fmt: skip
    for kind, process in s.grounds():
        winners = bench.winners(kind, process)
        lines += ["", f"## {kind}, {process}", "", "| solver | grid | " + " | ".join(map(str, s.nfe)) + " |",
                  "|---|---|" + "---|" * len(s.nfe)]  # fmt: skip
        for row in bench.rows(kind, process):
            name = f"*{row[0].solver}*" if row[0].peer else row[0].solver
            told = (f"**{figure(c)}**" if c is winners.get(c.nfe) else figure(c) for c in row)
            lines.append(f"| {name} | {row[0].grid} | " + " | ".join(told) + " |")
        lines += ["", "Winner on any grid: " + "; ".join(
            f"{n}: {c.solver} on {c.grid}, {figure(c)}" for n, c in sorted(winners.items())) + "."]  # fmt: skip
    if bench.left_out:
        lines += ["", "## Left out", "", *(f"- {name}: {why}" for name, why in bench.left_out.items())]
    return "\n".join(lines) + "\n"


def figure(cell: Cell) -> str:
    """The error in two or three figures; a dash where the calls do not suffice."""
    return "-" if not cell.calls else f"{cell.error:.3g}" if cell.error < 100 else "diverges"


def _picture(bench: Bench) -> bytes | None:
    """A panel for each ground: our five best in colour, DDIM in black, the schedulers of diffusers in grey."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    kinds, processes = list(dict.fromkeys(k for k, _ in bench.settings.grounds())), bench.settings.processes
    page = Figure(figsize=(4.6 * len(processes), 3.9 * len(kinds)), layout="constrained")
    panels = page.subplots(len(kinds), len(processes), squeeze=False)
    for (kind, process), panel in zip(bench.settings.grounds(), panels.flat):
        rows = bench.rows(kind, process)
        _lines(panel, [r for r in rows if r[0].peer], {"color": "0.65", "lw": 0.9, "ls": "--"}, lambda r: "")
        ours = [r for r in rows if not r[0].peer]
        for row in ours[:5]:
            _lines(panel, [row], {"marker": "o", "ms": 3}, lambda r: f"{r[0].solver} ({r[0].grid})")
        _lines(panel, [r for r in ours[5:] if r[0].solver == "ddim"], {"color": "k"}, lambda r: f"ddim ({r[0].grid})")
        panel.plot([], [], color="0.65", lw=0.9, ls="--", label="diffusers' schedulers")
        panel.set(xscale="log", yscale="log", title=f"{kind}, {process}", xlabel="network calls",
                  ylabel="distance to the exact end")  # fmt: skip
        panel.set_xticks([n for n in (5, 10, 20, 50) if min(bench.settings.nfe) <= n <= max(bench.settings.nfe)] or
                         list(bench.settings.nfe))  # fmt: skip
        panel.get_xaxis().set_major_formatter("{x:.0f}")
        panel.get_xaxis().set_minor_formatter("")
        panel.set_ylim(top=2)
        panel.legend(fontsize=7, frameon=False, loc="lower left")
        panel.grid(alpha=0.25)
    data = io.BytesIO()
    page.savefig(data, format="png", dpi=85)
    return data.getvalue()


def _lines(panel: Any, rows: Iterable[list[Cell]], style: dict[str, Any], label: Callable[[list[Cell]], str]) -> None:
    for row in rows:
        seen = [c for c in row if c.error < math.inf]
        panel.plot([c.nfe for c in seen], [c.error for c in seen], label=label(row), **style)


# ---- what to take


def best(nfe: int, process: str = "flow", kind: str = "mixture", table: Path | None = None) -> tuple[str, str]:
    """(solver, grid) that was nearest with at most so many calls, from the table docs/benchmarks/solvers.csv.

    nfe counts as the largest tabulated number that is not above it. kind: 'mixture', 'digits', or 'any': the smallest
    error relative to the winner's, over all kinds. Peers do not take part.
    """
    table = table or catalog.ROOT.parent.parent / "docs" / "benchmarks" / "solvers.csv"
    if not table.is_file():
        raise OrnsteinError(f"there is no table {table.name}", "Make it: `ornstein bench solvers --out docs/benchmarks`.")
    with table.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["process"] == process and not r["solver"].startswith(PEER)]
    kinds = sorted({r["kind"] for r in rows})
    if not rows or kind not in (*kinds, "any"):
        known = (*kinds, "any") if rows else tuple(GRIDS)
        raise unknown("kind of denoiser" if rows else "process", kind if rows else process, known)
    rows = [r for r in rows if kind in (r["kind"], "any")]
    tabulated = sorted({int(r["nfe"]) for r in rows})
    band = max((n for n in tabulated if n <= nfe), default=tabulated[0])
    rows = [r for r in rows if int(r["nfe"]) == band]
    least = {k: min(float(r["error"]) for r in rows if r["kind"] == k) for k in {r["kind"] for r in rows}}
    scores: dict[str, list[float]] = {}
    for r in rows:
        scores.setdefault(r["solver"], []).append(math.log(max(float(r["error"]), 1e-12) / max(least[r["kind"]], 1e-12)))
    winner = min((s for s in scores if len(scores[s]) == len(least)), key=lambda s: sum(scores[s]))
    return winner, next(r["grid"] for r in rows if r["solver"] == winner)
