"""Plans side by side on one model: what each loses beside the reference, with intervals, and what it takes, in one run.

The trivial ways to be cheaper always stand in the table: the model's own plan, and fewer steps of the usual solver. The plans
are drawn in turn, round after round, so that a busy machine is busy for all; seconds are medians over the rounds. What was
measured is kept after each round, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.record import write_atomic
from ornstein.cost import now
from ornstein.model import Subject
from ornstein.quality import LOSSES, Loss, Trial

__all__ = ["Bench", "Line", "Settings", "against", "bench", "label", "read_plan"]

FORMAT = 1
FEWER = (0.5, 0.25)  # of the steps of the model's own plan: the trivial ways to be cheaper


@dataclass(frozen=True)
class Settings:
    """metrics: losses; count: pictures of each plan; rounds: how often each is timed; batch: samples at a time."""

    metrics: tuple[str, ...] = ("latent",)
    count: int = 32
    rounds: int = 3
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in LOSSES:
                raise unknown("loss", metric, LOSSES)
        if not self.metrics or min(self.count - 1, self.rounds, self.batch) < 1:
            raise OrnsteinError(f"{self.count} pictures in {self.rounds} rounds measure nothing",
                                "Ask for two pictures, one round and one metric at least.")  # fmt: skip


@dataclass
class Line:
    """One plan. seconds: per picture, one for each round; losses: metric -> (mean, low, high, n); skipped: share of the
    asked sites; baseline: whether it stands here as a trivial way."""

    name: str
    plan: dict[str, Any]
    baseline: bool
    seconds: list[float] = field(default_factory=list)
    losses: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)
    calls: int = 0
    skipped: float = 0.0
    parts: dict[str, Any] = field(default_factory=dict)
    refused: str = ""

    @property
    def second(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass
class Bench:
    """What was measured; `lines[0]` is the reference."""

    model: str
    fingerprint: str
    settings: dict[str, Any]
    lines: list[Line]
    floor: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)
    done: int = 0  # rounds
    library: str = f"torch {torch.__version__}"
    threads: int = field(default_factory=torch.get_num_threads)

    def save(self, path: Path) -> Path:
        return write_atomic(path, (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Bench:
        """A benchmark's JSON. Missing, damaged or foreign: OrnsteinError."""
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            if told.pop("format") != FORMAT:
                raise ValueError("another format")
            told["lines"] = [Line(**line) for line in told["lines"]]
            return cls(**told)
        except FileNotFoundError as error:
            raise OrnsteinError(f"there is no benchmark at {path}", "Make one: `ornstein bench MODEL PLAN...`.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{path} is not a benchmark of plans"
            raise OrnsteinError(what, "It must be the bench.json that ornstein wrote.") from error

    def front(self, metric: str) -> list[Line]:
        """The plans to which none is both faster and better, fastest first."""
        able = [x for x in self.lines if not x.refused and math.isfinite(x.losses.get(metric, (math.nan,))[0])]
        return sorted((x for x in able if not any(
            y.second <= x.second and y.losses[metric][0] <= x.losses[metric][0] and
            (y.second, y.losses[metric][0]) != (x.second, x.losses[metric][0]) for y in able)), key=lambda x: x.second)  # fmt: skip


# ---- plans in words


def read_plan(model: Subject, text: str) -> Plan:
    """A file of a plan, or 'steps=12 solver=dpmpp2m accelerate=firstblock:threshold=0.1' as changes of the model's own."""
    if text.endswith(".json"):
        return Plan.load(text).for_model(model.name, model.backbone)
    changes: dict[str, Any] = {}
    rooms = {"solver": "solvers", "grid": "grids", "guidance": "guidance", "accelerate": "acceleration",
             "compress": "compression"}  # fmt: skip
    for word in text.split():
        key, sign, value = word.partition("=")
        if word == "compile":
            changes["compile"] = True
            continue
        if not sign or key not in (*rooms, "steps", "dtype"):
            known = ", ".join((*rooms, "steps", "dtype"))
            what = f"cannot read '{word}' of the plan '{text}'"
            raise OrnsteinError(what, f"Write key=value with {known}, or compile, or name a file.")
        if key == "steps":
            if not value.isdigit():
                raise OrnsteinError(f"steps={value} is not a positive whole number", "Ask for at least 1 step.")
            changes[key] = int(value)
        elif key in ("guidance", "accelerate", "compress"):
            changes[key] = changes.get(key, ()) + ((value,) if value != "none" else ())
        else:
            changes[key] = value
        if key in rooms and value != "none" and not (model.foreign and catalog.parse(value)[0] == catalog.OWN):
            catalog.find(catalog.parse(value)[0], rooms[key])
    return model.plan(**changes)


def label(plan: Plan) -> str:
    """A plan in one short line: what `read_plan` reads."""
    words = [f"steps={plan.steps}", f"solver={plan.solver}", f"grid={plan.grid}"]
    words += [f"{key}={part}" for key in ("guidance", "accelerate", "compress") for part in getattr(plan, key)]
    words += [f"dtype={plan.dtype}"] if plan.dtype != "float32" else []
    return " ".join(words + (["compile"] if plan.compile else []))


def baselines(model: Subject, reference: Plan) -> dict[str, Plan]:
    """Name -> plan of the reference and the trivial ways to be cheaper."""
    own = model.plan()
    found = {"reference": reference, "as shipped": model.shipped()}
    if found["as shipped"] != own:  # a pipeline with a scheduler of its own
        found[f"{own.solver}, {own.steps} steps"] = own
    for share in FEWER:
        found[f"{max(1, round(own.steps * share))} steps"] = model.plan(steps=max(1, round(own.steps * share)))
    if getattr(model.process, "discrete", False):
        return found
    return found | {f"ddim, {own.steps} steps": replace(own, solver="ddim", grid="uniform")}


# ---- measuring


def bench(model: Subject, plans: dict[str, Plan], settings: Settings | None = None, *, prompts: Sequence[Any] = (),
          reference: Plan | None = None, out: Path | None = None,
          progress: Callable[[int, int, str], None] | None = None) -> Bench:  # fmt: skip
    """Measure the plans (by name) and the baselines. With a folder `out`: bench.json after each round, bench.html at the end,
    and what bench.json holds of the same benchmark is not measured again. progress(done, total, what)."""
    settings = settings or Settings()
    trial = Trial(model, prompts, reference, settings.batch)
    for metric in settings.metrics:
        trial.check(metric, settings.count)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    subjects = baselines(model, trial.reference)
    usual = len(subjects)
    for name, plan in plans.items():
        subjects[name if name not in subjects else f"{name} (2)"] = plan
    told = asdict(settings) | {"metrics": list(settings.metrics), "prompts": [str(p) for p in trial.prompts]}
    lines = [Line(n, _json(p), i < usual) for i, (n, p) in enumerate(subjects.items())]
    made = _resume(out, Bench(model.name, fingerprint(model.backbone), told, lines))
    drawn: dict[str, Tensor | None] = {}
    first, total = made.done, (settings.rounds - made.done) * len(lines)
    for k in range(first, settings.rounds):
        for i, (line, plan) in enumerate(zip(made.lines, subjects.values())):
            if progress is not None:
                progress((k - first) * len(lines) + i, total, line.name)
            if not line.refused:
                drawn[line.name] = _once(trial, line, plan, settings, line.name not in drawn)
        made.done = made.settings["rounds"] = k + 1
        if not made.floor:
            for line in made.lines:
                _lose(trial, line, drawn.get(line.name), settings)
            made.floor = {m: _told(trial.floor(m, settings.count, settings.seed)) for m in settings.metrics}
        if out:
            made.save(out / "bench.json")
    if out:
        from ornstein.report import page, pictures

        some = pictures(trial, {x.name: drawn.get(x.name) for x in made.lines}, subjects, settings.seed)
        write_atomic(out / "bench.html", page(made, some).encode())
    return made


def _json(plan: Plan) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(plan)))


def _resume(out: Path | None, fresh: Bench) -> Bench:
    """What the folder holds of the same benchmark; or the fresh one."""
    if out is None or not (out / "bench.json").is_file():
        return fresh
    found = Bench.load(out / "bench.json")

    def what(b: Bench) -> tuple:
        kept = {k: v for k, v in b.settings.items() if k != "rounds"}
        return b.model, b.fingerprint, b.threads, b.library, kept, [(x.name, x.plan) for x in b.lines]

    return found if what(found) == what(fresh) else fresh


def _once(trial: Trial, line: Line, plan: Plan, settings: Settings, cold: bool) -> Tensor | None:
    """One timed drawing. cold: it is this process's first of the plan. A copy of the network that the plan needs, compressed or
    compiled, may have made room for another plan's meanwhile: it is made again before the clock runs."""
    device = next(trial.model.backbone.parameters()).device
    try:
        if cold or plan.compress or plan.compile:  # to warm up, and to see whether it runs; compiled at each size of a batch
            trial.draw(plan, settings.seed, settings.count if plan.compile else min(2, settings.count))
        began = now(device)
        x, record = trial.draw(plan, settings.seed, settings.count)
        line.seconds.append((now(device) - began) / settings.count)
    except OrnsteinError as error:
        line.refused = str(error)
        return None
    calls = sum(n for branch, n in record.calls.items() if branch != "evaluations")
    line.calls = round(calls / -(-settings.count // settings.batch))
    line.skipped, line.parts = record.skipped(), record.as_dict()["parts"]
    return x


def _lose(trial: Trial, line: Line, x: Tensor | None, settings: Settings) -> None:
    """What the plan loses, or that its samples cannot be measured."""
    if line.refused or x is None:
        return
    if not x.isfinite().all():
        line.refused = "the samples are not finite"
        return
    line.losses = {m: _told(trial.loss(m, x, settings.seed)) for m in settings.metrics}


def _told(loss: Loss) -> tuple[float, float, float, int]:
    return (loss.mean, *loss.interval(), loss.n)


def against(now_: Bench, before: Bench) -> list[str]:
    """What got worse beyond the intervals: quality, or seconds relative to the reference (by more than the rounds vary and
    a tenth). Plans are matched by name; one that is gone or refused now counts. Another model, other prompts, or a metric that
    was not measured this time: OrnsteinError."""
    if now_.model != before.model:
        raise OrnsteinError(f"a benchmark of '{before.model}' is not one of '{now_.model}'", "Compare benchmarks of one model.")
    if now_.settings.get("prompts") != before.settings.get("prompts"):
        raise OrnsteinError("the earlier benchmark asked for other prompts", "Give the same --prompts-file as then.")
    if gone := [m for m in before.settings.get("metrics", ()) if m not in now_.settings["metrics"]]:
        raise OrnsteinError(f"the earlier benchmark measured {', '.join(gone)} too", "Add it as --metric.")
    mine, worse = {x.name: x for x in now_.lines}, []
    for old in (x for x in before.lines if not x.refused):
        new = mine.get(old.name)
        if new is None or new.refused:
            worse.append(f"{old.name}: {'is gone' if new is None else new.refused}")
            continue
        for metric, (mean, _, high, _) in old.losses.items():
            if not new.losses[metric][1] <= high:
                worse.append(f"{old.name}: {metric} {new.losses[metric][0]:.4g}, was {mean:.4g}")
        one, other = _shares(new, now_.lines[0]), _shares(old, before.lines[0])
        if min(one) > 1.1 * max(other):
            worse.append(f"{old.name}: {statistics.median(one):.3g} of the reference's seconds, was {statistics.median(other):.3g}")
    return worse


def _shares(line: Line, reference: Line) -> list[float]:
    return [a / b for a, b in zip(line.seconds, reference.seconds)]
