"""The evidence of many methods at once: worker processes, the longest first, and one file with every figure.

Each worker is a process with one thread of torch. What breaks down there, an exception or the process itself, is the
result of that method alone: the others go on. The parent never imports torch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMAT", "Outcome", "command", "load", "longest_first", "numbers", "run", "save"]

FORMAT = 1  # of the file
COLOURS = {"holds": "green", "partly": "yellow", "fails": "red"}
TICK = 0.25  # seconds between two looks at the workers


@dataclass(frozen=True)
class Outcome:
    """What came of one method. `seconds`: of processor time; `wall`: on the clock; `error`: why there is no verdict."""

    path: str
    verdict: str = ""
    recorded: str = ""
    claim: str = ""
    note: str = ""
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    seconds: float = 0.0
    wall: float = 0.0
    error: str = ""

    @property
    def good(self) -> bool:
        """The evidence came to the verdict of the card."""
        return not self.error and self.verdict == self.recorded

    @property
    def reason(self) -> str:
        """Why it crashed, in a line."""
        return self.error.strip().rpartition("\n")[2]

    @property
    def said(self) -> str:
        """What is wrong with it, in a line."""
        if self.error:
            return f"{self.path}: crashed: {self.reason}"
        return f"{self.path}: the card says '{self.recorded or 'nothing'}', the evidence says '{self.verdict}'"


# ---- one method


def _processor() -> float:
    """Seconds of processor time of this process (finely) and of the children it waited for (in ticks of 10 ms)."""
    return time.process_time() + sum(os.times()[2:4])


def _one(path: str, quick: bool) -> Outcome:
    """Try one method, here."""
    import traceback

    from ornstein import evidence

    began, spent = time.perf_counter(), _processor()

    def costs() -> dict[str, float]:
        return {"seconds": round(_processor() - spent, 3), "wall": round(time.perf_counter() - began, 3)}

    try:
        found, recorded = evidence.check(path, quick)
    except Exception:
        return Outcome(path, error=traceback.format_exc(), **costs())
    rows = [{"name": r.name, "kind": r.kind, "metric": r.metric, "values": [_brief(v) for v in r.values], "cost": r.cost}
            for r in found.rows]  # fmt: skip
    return Outcome(path, found.verdict, recorded, found.claim, found.note, rows, **costs())


def _brief(value: float) -> float | str:
    """Six digits; what JSON has no number for as a word that float() reads."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def numbers(row: Mapping[str, Any]) -> tuple[float, float, int]:
    """Mean, standard deviation over the seeds and count of the values of a row of the file."""
    values = [float(v) for v in row["values"]]
    mean = sum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, 0.0, len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values)


# ---- many methods


@dataclass(eq=False)
class _Hand:
    """A worker, this end of its pipe, and what it is at."""

    process: Any
    pipe: Any
    path: str = ""
    began: float = 0.0


def _work(pipe: Any) -> None:
    """The life of a worker: methods come in, outcomes go out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)  # the table of the parent stays whole
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            path, quick = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)  # no evidence depends on those before it
        pipe.send(_one(path, quick))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here do not hear Ctrl-C; their arithmetic runs on one thread."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read once, when the libraries load
    before = {n: os.environ.get(n) for n in names}
    os.environ.update(dict.fromkeys(names, "1"))
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _hire(work: Callable[[Any], None], hands: list[_Hand]) -> _Hand:
    """A new worker, on the list before it starts: an interruption at any point leaves none behind."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    hands.append(_Hand(context.Process(target=work, args=(theirs,)), mine))
    with _deaf():
        hands[-1].process.start()
    theirs.close()
    return hands[-1]


def _dismiss(hands: Sequence[_Hand]) -> None:
    hands = [h for h in hands if h.process.pid is not None]
    for hand in hands:
        hand.pipe.close()
        if hand.process.is_alive():
            hand.process.terminate()
    for hand in hands:
        hand.process.join(5)
        if hand.process.is_alive():
            hand.process.kill()


def run(paths: Sequence[str], jobs: int, quick: bool = True, work: Callable[[Any], None] = _work
        ) -> Iterator[tuple[Outcome | None, dict[str, float]]]:  # fmt: skip
    """Try `paths` in that order in `jobs` processes (0: here, one after the other).

    Yields, at least every quarter of a second, the outcome that came in, or None, and what is running for how many
    seconds. Closing the iterator ends the workers. `work`: what a worker does with its pipe.
    """
    if jobs == 0:
        yield from ((_one(path, quick), {}) for path in paths)
        return
    waiting, hands, idle, busy = deque(paths), [], [], []  # type: ignore[var-annotated]
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                hand = idle.pop() if idle else _hire(work, hands)
                hand.path, hand.began = waiting.popleft(), time.perf_counter()
                busy.append(hand)
                with contextlib.suppress(OSError):  # one that died in the meantime is found below
                    hand.pipe.send((hand.path, quick))
            done = _heard(busy)
            for hand, _ in done:
                busy.remove(hand)
                if hand.process.is_alive():
                    idle.append(hand)
                else:
                    _dismiss([hand])
            now = time.perf_counter()
            running = {h.path: now - h.began for h in busy}
            for _, outcome in done or [(None, None)]:
                yield outcome, running
    finally:
        _dismiss(hands)


def _heard(busy: Sequence[_Hand]) -> list[tuple[_Hand, Outcome]]:
    """Who has something to say by the next tick, or is dead."""
    from multiprocessing.connection import wait

    ends = {h.pipe: h for h in busy} | {h.process.sentinel: h for h in busy}
    told = {id(h): h for h in (ends[e] for e in wait(list(ends), TICK))}
    return [(hand, _read(hand)) for hand in told.values()]


def _read(hand: _Hand) -> Outcome:
    try:
        if hand.pipe.poll():
            return hand.pipe.recv()
    except (EOFError, OSError):
        pass
    hand.process.join(5)
    code = hand.process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    wall = time.perf_counter() - hand.began
    return Outcome(hand.path, error=f"the process ended with {how}", wall=round(wall, 3))


def longest_first(paths: Sequence[str], before: Mapping[str, float]) -> list[str]:
    """By the seconds of the last time, longest first; those never seen at the front, for they may be long."""
    return sorted(paths, key=lambda p: -before.get(p, math.inf))


# ---- the file


def load(file: Path) -> dict[str, Any]:
    """The figures of an earlier time. {} where there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OrnsteinError(f"{file} is no JSON", "Remove it, or give another --json.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise OrnsteinError(f"{file} holds no figures of this program's", "Remove it, or give another --json.")
    return found


def save(file: Path, outcomes: Sequence[Outcome], quick: bool, before: Mapping[str, Any] | None = None) -> None:
    """Write the figures in one stroke; those of `before` that were not tried this time are kept."""
    methods = dict((before or {}).get("methods", {}))
    for done in outcomes:
        told = {k: v for k, v in asdict(done).items() if k != "path" and (v or k not in ("note", "claim", "error"))}
        methods[done.path] = {"quick": quick, **told, **({"error": done.reason} if done.error else {})}
    known = [e.path for e in catalog.entries() if e.path in methods]
    kept = {p: methods[p] for p in known or sorted(methods)}
    whole = {"format": FORMAT, "versions": _versions(), "seconds": round(sum(m.get("seconds", 0) for m in kept.values()), 1),
             "methods": kept}  # fmt: skip
    part = file.with_name(file.name + ".tmp")
    try:
        part.write_text(_text(whole), encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _text(whole: Mapping[str, Any]) -> str:
    """JSON with a line for each row, so that a change of a figure is a change of a line."""
    lines = []
    for path, method in whole["methods"].items():
        head = ",\n".join(f"   {json.dumps(k)}: {_json(v)}" for k, v in method.items() if k != "rows")
        rows = ",\n".join(f"    {_json(r)}" for r in method["rows"])
        lines.append(f'  {json.dumps(path)}: {{\n{head},\n   "rows": [\n{rows}\n   ]\n  }}')
    head = "".join(f" {json.dumps(k)}: {_json(v)},\n" for k, v in whole.items() if k != "methods")
    return "{\n" + head + ' "methods": {\n' + ",\n".join(lines) + "\n }\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("ornstein", "torch", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _seconds_before(file: Path | None) -> dict[str, float]:
    """From the file that is to be written, else from the figures of the checkout."""
    for place in (file, catalog.ROOT.parent.parent / "docs" / "evidence.json"):
        if place is not None and place.is_file():
            with contextlib.suppress(OrnsteinError):
                return {p: m["seconds"] for p, m in load(place).get("methods", {}).items() if m.get("seconds")}
    return {}


# ---- the command


def command(paths: Sequence[str], jobs: int | None, quick: bool, file: Path | None, out: Console, err: Console) -> bool:
    """`ornstein check --all`: try `paths`, show how it goes, sum up, write `file`. True where every card is right."""
    jobs = min(4, os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 0:
        raise OrnsteinError(f"--jobs {jobs}", "Give a number of processes; 0 tries one after the other in this one.")
    before = load(file) if file is not None else {}
    if file is not None and not file.absolute().parent.is_dir():
        raise OrnsteinError(f"there is no folder for {file}", "Make it first.")
    began = time.perf_counter()
    order = longest_first(paths, _seconds_before(file)) if jobs else list(paths)
    outcomes = _watched(run(order, jobs, quick), len(order), err)
    _sum_up(outcomes, time.perf_counter() - began, jobs, out)
    if file is not None:
        save(file, outcomes, quick, before)
        out.print(f"figures  {file}")
    return all(o.good for o in outcomes)


def _watched(steps: Iterator[tuple[Outcome | None, dict[str, float]]], total: int, err: Console) -> list[Outcome]:
    """Exhaust `steps`: on a terminal under a table that lives, else with a line for each method."""
    outcomes: list[Outcome] = []
    with contextlib.closing(steps):  # type: ignore[type-var]
        if not err.is_terminal:
            for done, _ in steps:
                if done is not None:
                    outcomes.append(done)
                    err.print(f"{len(outcomes)}/{total} {done.path} {_word(done)} {done.seconds:.1f} s")
            return outcomes
        from rich.live import Live

        with Live(console=err, refresh_per_second=4, transient=True) as live:
            for done, running in steps:
                outcomes += [done] if done is not None else []
                live.update(_state(outcomes, running, total))
    return outcomes


def _word(done: Outcome) -> str:
    if done.error:
        return "[bold red]crashed[/]"
    same = done.verdict == done.recorded
    colour = COLOURS.get(done.verdict, "dim") if same else "bold red"
    return f"[{colour}]{done.verdict}[/]" + ("" if same else f" [bold red](the card: {done.recorded or 'nothing'})[/]")


def _state(outcomes: Sequence[Outcome], running: Mapping[str, float], total: int) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    spent = sum(o.seconds for o in outcomes)
    table.add_row(f"[bold]{len(outcomes)}/{total}[/]", f"{_counts(outcomes)}, {spent:.0f} s of processor time")
    for path, seconds in running.items():
        table.add_row(f"[dim]{seconds:.0f} s[/]", path)
    for done in (o for o in outcomes if not o.good):
        table.add_row("", f"[red]{done.said}[/]", style="red")
    return table


def _counts(outcomes: Sequence[Outcome]) -> str:
    found = Counter("crashed" if o.error else o.verdict for o in outcomes)
    names = [*COLOURS, *(["crashed"] if found["crashed"] else [])]
    return ", ".join(f"{found[n]} [{COLOURS.get(n, 'bold red')}]{n}[/]" for n in names)


def _sum_up(outcomes: Sequence[Outcome], wall: float, jobs: int, out: Console) -> None:
    from rich.markup import escape

    slow = sorted(outcomes, key=lambda o: -o.seconds)[:10]
    spent = sum(o.seconds for o in outcomes)
    out.print(f"{len(outcomes)} methods: {_counts(outcomes)}")
    out.print(f"{wall:.0f} s on the clock in {max(jobs, 1)} processes, {spent:.0f} s of processor time")
    out.print("slowest: " + ", ".join(f"{o.path} {o.seconds:.1f} s" for o in slow))
    told = set()
    for bad in (o for o in outcomes if not o.good):
        out.print(f"[red]{escape(bad.said)}[/]")
        if bad.error and bad.reason not in told:  # what befell many has one cause
            out.print(f"[dim]{escape(bad.error.strip())}[/]")
            told.add(bad.reason)
