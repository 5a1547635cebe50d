"""The fastest plan that keeps a bound on the quality of *this* model: searched, then promised on seeds the search never saw.

The search spends little where little is at stake. First the bound is put in terms of the error of the latents, which few
samples tell. Then each solver and grid is given the fewest steps that keep it (by halving); the best go on with what
can be added to them: accelerations, guidance in an interval, compression, and pairs of what helped, each under the rules of
Effects. The finalists are measured by the metric itself on more samples, and then, cheapest first, on fresh seeds: the
first whose mean loss is below the bound with the confidence asked for, shared among the attempts, is the plan. Where none
is, the answer is no plan but the best that was found.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ornstein.bench import label
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.record import write_atomic
from ornstein.cost import Cost, now, predict
from ornstein.model import Model
from ornstein.quality import LOSSES, PAIRED, Loss, Trial

__all__ = ["Goal", "Point", "Tuned", "tune"]

LADDER = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 25, 30, 40, 50)
SOLVERS = ("deis", "deis:points=2", "deis:points=3", "dpmpp2m", "unipc", "pndm", "ddim")
GRIDS = ("beta", "uniform", "logsnr")
SAMPLERS = ("halving", "optuna")
OBJECTIVES = ("seconds", "memory", "flops")
FEW, SOME, MANY, ATTEMPTS = 8, 64, 256, 4  # samples of the search, of the finals and of the promise; how often it is tried
LEAST = 48  # of the promise, however short the time
KEPT, FINALISTS = 3, 6
PROMISE = 1_000_003  # the first seed of the promise: far from those of the search
LIKELY = 0.75  # how sure a finalist must keep the bound
SLACK = 1.15  # by how much the few samples of the search may be wrong
COMPILE = 120.0  # seconds that must be left for compiled code to be tried
SAVE = 5.0  # seconds between two savings


@dataclass(frozen=True)
class Goal:
    """metric: a loss; max_loss: the bound on its mean; objective: what is made small; confidence: of the promise."""

    metric: str = "latent"
    max_loss: float = 0.05
    objective: str = "seconds"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.metric not in LOSSES:
            raise unknown("loss", self.metric, LOSSES)
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        if not (0 < self.max_loss < math.inf and 0.5 <= self.confidence < 1):
            raise OrnsteinError(f"max_loss={self.max_loss} with confidence {self.confidence} is nothing to search for",
                                "Give a loss above 0, and a confidence such as 0.95.")  # fmt: skip


@dataclass
class Point:
    """One plan that was tried. loss: by the few samples' latents, then by the metric; share: of the reference's cost."""

    plan: Plan
    share: float
    proxy: float
    stage: str
    loss: tuple[float, float, float, int] | None = None  # mean, low, high, n; of the last stage it came to
    why: str = ""


@dataclass
class Tuned:
    """plan: the one that is promised, its figures with it; None: nothing was found, and `best` is the nearest."""

    goal: Goal
    plan: Plan | None
    best: Point | None
    points: list[Point]
    reference: Plan
    seconds: float
    left_out: dict[str, str] = field(default_factory=dict)

    def refuse(self) -> OrnsteinError:
        """The error that says what can be had."""
        near = f"{self.best.loss[0]:.4g} with {label(self.best.plan)}" if self.best and self.best.loss else "nothing"
        return OrnsteinError(f"no plan cheaper than the reference keeps {self.goal.metric} below {self.goal.max_loss:g}",
                             f"Within reach: {near}. Allow more loss, or give more --budget.")  # fmt: skip


class Search:
    """One search: what was tried, in which time."""

    def __init__(self, trial: Trial, goal: Goal, budget: float, seed: int, tell: Callable[[float, str], None] | None,
                 file: Path | None) -> None:  # fmt: skip
        self.trial, self.goal, self.seed, self.file = trial, goal, seed, file
        self.model, self.began, self.budget, self.tell = trial.model, time.monotonic(), budget, tell
        self.points: dict[str, Point] = {}
        self.left_out: dict[str, str] = {}
        self.full = self.price(trial.reference, None)
        second = predict(self.model, trial.reference, trial.batch, trial.prompts).seconds / trial.batch
        # an attempt at a promise draws the reference too: that is to take no more than a tenth of the time
        self.many = min(MANY, max(LEAST, int(0.1 * budget / second)))
        self.some = min(SOME, max(LEAST // 3, self.many // 4))
        self.bound, self.saved = goal.max_loss, time.monotonic()
        self.resume()

    # ---- what one plan costs and loses

    def price(self, plan: Plan, record: Any) -> float:
        cost: Cost = predict(self.model, plan, self.trial.batch, self.trial.prompts, record=record)
        return {"seconds": cost.seconds, "flops": cost.flops, "memory": float(cost.bytes)}[self.goal.objective]

    def over(self, part: float) -> bool:
        """Whether this part of the budget is spent."""
        if self.tell:
            self.tell(min(self.spent(), 1.0), f"{len(self.points)} plans tried")
        return self.spent() > part

    def spent(self) -> float:
        """Share of the budget."""
        return (time.monotonic() - self.began) / self.budget

    def try_plan(self, plan: Plan, stage: str) -> Point | None:
        """Few samples of it, or what is known of them; None where it is refused."""
        name = label(plan)
        if name in self.left_out:
            return None
        if name not in self.points:
            try:
                x, record = self.trial.draw(plan, self.seed, FEW)
                loss = self.trial.loss("latent", x, self.seed)
                self.points[name] = Point(plan, self.price(plan, record) / self.full, loss.mean, stage)
            except OrnsteinError as error:
                self.left_out[name] = str(error)
                return None
            idle = [part for part, n in record.left_by.items() if not n and "evaluation" in self.owners(plan).get(part, ())]
            if idle or not math.isfinite(loss.mean):
                self.left_out[name] = f"{idle[0]} left nothing out" if idle else "the samples are not finite"
                del self.points[name]
                return None
            if time.monotonic() - self.saved > SAVE:
                self.save()
        return self.points[name]

    def owners(self, plan: Plan) -> dict[str, frozenset]:
        """Class of a part -> what it decides."""
        parts = [catalog.build("acceleration", text) for text in plan.accelerate]
        return {type(p).__name__: p.effects.replaces for p in parts}

    # ---- the search

    def translate(self) -> None:
        """The bound of another metric as one on the latents: the most that the usual solver loses there within it."""
        if self.goal.metric == "latent":
            return
        own, kept = self.own(), 0.0
        for steps in [n for n in LADDER if n < own.steps][::2]:
            if self.over(0.2):
                break
            x, _ = self.trial.draw(replace(own, steps=steps), self.seed, self.some)
            loss = self.trial.loss(self.goal.metric, x, self.seed)
            if loss.mean <= self.goal.max_loss:
                kept = max(kept, self.trial.loss("latent", x, self.seed).mean)
            elif self.goal.metric in PAIRED and kept:
                break
        few = replace(own, steps=max(1, own.steps // 3))  # where none kept it
        self.bound = 1.5 * kept or self.trial.loss("latent", self.trial.draw(few, self.seed, FEW)[0], self.seed).mean

    def fewest(self, plan: Plan, stage: str, most: float = math.inf) -> Point | None:
        """The point of the fewest steps that keep the bound and cost less than `most`, by halving the ladder."""
        steps = [n for n in LADDER if n < self.trial.reference.steps]
        low, high, found = 0, len(steps) - 1, None
        while low <= high:
            middle = (low + high) // 2
            point = self.try_plan(replace(plan, steps=steps[middle]), stage)
            if point is None:
                return None
            if point.proxy <= self.bound * SLACK:
                found, high = point, middle - 1
            elif point.share >= most:
                return None  # more steps would cost more yet
            else:
                low = middle + 1
        return found

    def solvers(self) -> list[Point]:
        """Each solver on each grid, the reference's own first: with that one there is an answer, however short the time."""
        own = self.own()
        arms = dict.fromkeys([(own.solver, own.grid), *((solver, grid) for grid in GRIDS for solver in SOLVERS)])
        found = []
        for k, (solver, grid) in enumerate(arms):
            if k and self.over(0.35):
                break
            found.append(self.fewest(replace(own, solver=solver, grid=grid), "solvers"))
        return sorted((p for p in found if p), key=lambda p: p.share)

    def own(self) -> Plan:
        return replace(self.trial.reference, figures={})

    def extras(self, base: Plan) -> Iterator[Plan]:
        """The plan with one thing added."""
        for part in accelerations(self.model):
            yield replace(base, accelerate=(*base.accelerate, part))
        for part in base.guidance:
            if part.startswith("cfg") and "interval" not in part:
                for interval in ("(0.1,0.9)", "(0.2,0.8)", "(0,0.8)"):
                    yield replace(base, guidance=tuple(f"{p},interval={interval}" if p == part else p for p in base.guidance))
        if next(self.model.backbone.parameters()).device.type == "cpu":
            yield replace(base, compress=("int8",))
        else:
            yield replace(base, dtype="bfloat16")

    def add(self, bases: Sequence[Point]) -> list[Point]:
        """What helped, when added to the best."""
        found = []
        for base in bases:
            for plan in self.extras(base.plan):
                if self.over(0.5):
                    return found
                better = self.fewest(plan, "extras", base.share)
                if better and better.share < base.share:
                    found.append(better)
        return sorted(found, key=lambda p: p.share)

    def pairs(self, helped: Sequence[Point]) -> None:
        """Two that helped, on one base."""
        for i, one in enumerate(helped[:4]):
            for two in helped[i + 1 : 4]:
                if self.over(0.6):
                    return
                a, b = one.plan, two.plan
                if (a.solver, a.grid) == (b.solver, b.grid):
                    merged = {k: tuple(dict.fromkeys((*getattr(a, k), *getattr(b, k)))) for k in ("accelerate", "compress")}
                    guidance = a.guidance if a.guidance != self.own().guidance else b.guidance
                    self.fewest(replace(a, guidance=guidance, **merged), "pairs", one.share)

    def sampled(self) -> None:
        """The same space by Optuna's tree-structured Parzen estimator: least cost, with a penalty outside of the bound."""
        try:
            import optuna
        except ImportError as error:
            raise OrnsteinError("the sampler 'optuna' is not installed", 'Run `pip install "ornstein[tune]"`.') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        extras = [self.own(), *self.extras(self.own())]
        steps = [n for n in LADDER if n < self.trial.reference.steps]

        def judge(one: Any) -> float:
            base = extras[one.suggest_categorical("extra", range(len(extras)))]
            plan = replace(base, solver=one.suggest_categorical("solver", SOLVERS), grid=one.suggest_categorical("grid", GRIDS),
                           steps=steps[one.suggest_int("steps", 0, len(steps) - 1)])  # fmt: skip
            point = self.try_plan(plan, "optuna")
            if point is None:
                raise optuna.TrialPruned
            over = point.proxy / (self.bound * SLACK)
            return point.share if over <= 1 else 1 + point.share + math.log(over)

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed))
        while not self.over(0.6):
            study.optimize(judge, n_trials=1)

    def finalists(self) -> list[Point]:
        """The cheapest within the bound by the metric itself, cheapest first; among those that are asked the cheapest that
        is only a solver, a grid and its steps, and beside some the same with a step more."""
        good = sorted((p for p in self.points.values() if p.proxy <= self.bound * SLACK and p.share < 1), key=lambda p: p.share)
        plain = [p for p in good if not (p.plan.accelerate or p.plan.compress)]
        chosen = {label(p.plan): p for p in (*good[:FINALISTS], *plain[:2])}
        for p in (*good[: FINALISTS // 2], *plain[:1]):
            more = self.try_plan(replace(p.plan, steps=p.plan.steps + 1 + p.plan.steps // 8), "finals")
            chosen |= {label(more.plan): more} if more else {}
        best = next(iter(chosen.values()), None)
        if best and self.goal.objective == "seconds" and (1 - self.spent()) * self.budget > COMPILE:
            made = self.try_plan(replace(best.plan, compile=True), "finals")
            chosen |= {label(made.plan): made} if made else {}
        within, likely = [], []
        for p in sorted(chosen.values(), key=lambda p: p.share):
            if self.over(0.75) and (likely or self.over(1.0)):
                break
            loss = self.measure(p, self.seed, self.some)
            within += [p] if loss.mean <= self.goal.max_loss else []
            likely += [p] if loss.below(LIKELY) <= self.goal.max_loss else []
        kept = likely or within  # an attempt at a promise costs too much to be made on what may well break it
        if self.goal.objective == "seconds":
            self.time(kept)
        return sorted(kept, key=lambda p: p.share)

    def time(self, points: Sequence[Point]) -> None:
        """Shares as they are measured, in turn with the reference, in place of those that were predicted."""
        shares: dict[int, list[float]] = {}
        for _ in range(3 if points else 0):
            whole = seconds(self.trial, self.trial.reference)
            for i, p in enumerate(points):
                shares.setdefault(i, []).append(seconds(self.trial, p.plan) / whole)
        for i, found in shares.items():
            points[i].share = statistics.median(found)

    def measure(self, point: Point, seed: int, count: int) -> Loss:
        loss = self.trial.loss(self.goal.metric, self.trial.draw(point.plan, seed, count)[0], seed)
        point.loss = (loss.mean, *loss.interval(), loss.n)
        return loss

    def promise(self, chosen: Sequence[Point]) -> Point | None:
        """The first, cheapest first, that keeps the bound on fresh seeds; each attempt has a share of the doubt. Where the
        chosen do not suffice, the nearest of them goes on with more steps."""
        sure = 1 - (1 - self.goal.confidence) / ATTEMPTS
        queue, tried = list(chosen[: ATTEMPTS - 1]), []
        for k in range(ATTEMPTS):
            if k and self.over(1.2):  # one attempt there is, however short the time
                return None
            point = queue.pop(0) if queue else self.more(tried)
            if point is None:
                return None
            loss = self.measure(point, PROMISE + self.seed * ATTEMPTS + k, self.many)
            point.stage = "promise"
            tried.append(point)
            if loss.below(sure) <= self.goal.max_loss:
                return point
            point.why = f"with {sure:.1%} below {loss.below(sure):.4g}: not below {self.goal.max_loss:g}"
        return None

    def more(self, tried: Sequence[Point]) -> Point | None:
        """Of what was measured the plan of least loss, with a quarter more steps; None where that costs as much as the
        reference."""
        known = [p for p in self.points.values() if p.loss] or sorted(self.points.values(), key=lambda p: p.proxy)[:1]
        if not known:
            return None
        best = min(tried or known, key=lambda p: p.loss[0] if p.loss else p.proxy)
        point = self.try_plan(replace(best.plan, steps=best.plan.steps + max(1, best.plan.steps // 4)), "promise")
        return point if point and point.share < 1 else None

    # ---- what is kept

    def key(self) -> dict[str, Any]:
        """Of what this is a search: another one does not go on from it."""
        trial = self.trial
        return {"model": fingerprint(self.model.backbone), "goal": asdict(self.goal), "reference": label(trial.reference),
                "batch": trial.batch, "seed": self.seed, "prompts": [str(p) for p in trial.prompts]}  # fmt: skip

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.file:
            told = {"key": self.key(), "points": [asdict(p) for p in self.points.values()], "left_out": self.left_out}
            write_atomic(self.file, (json.dumps(told, indent=1) + "\n").encode())

    def resume(self) -> None:
        """Go on from what the file holds of the same search; a torn or foreign file is begun anew."""
        try:
            told = json.loads(self.file.read_text(encoding="utf-8")) if self.file and self.file.is_file() else {}
            if told.get("key") == json.loads(json.dumps(self.key())):
                for point in told["points"]:
                    plan = Plan(**{k: tuple(v) if isinstance(v, list) else v for k, v in point["plan"].items()})
                    self.points[label(plan)] = Point(plan, point["share"], point["proxy"], point["stage"])
                self.left_out |= told["left_out"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.points.clear()


def accelerations(model: Model) -> list[str]:
    """The accelerations of the house that fit this network, as their evidence tries them, and looser and tighter ones."""
    from ornstein.core.seam import attach

    found = []
    for entry in catalog.entries("acceleration"):
        trial = getattr(importlib.import_module(f"ornstein.evidence.acceleration.{entry.name}"), "TRIAL", None)
        for settings in _knobs(trial[1]) if trial else ():
            text = f"{entry.name}:{settings}" if settings else entry.name
            try:
                attach(model.backbone, catalog.build("acceleration", text))()
            except (OrnsteinError, TypeError):
                break
            found.append(text)
    return found


def _knobs(settings: str) -> list[str]:
    """'interval=3' -> also 2 and 4: whole numbers one less and more, other numbers half and twice."""
    name, sign, value = settings.partition("=")
    if not sign or "," in settings:
        return [settings]
    try:
        if value.isdigit():
            return [f"{name}={n}" for n in (int(value), int(value) - 1, int(value) + 1) if n > 1] or [settings]
        return [f"{name}={float(value) * k:g}" for k in (1, 0.5, 2)]
    except ValueError:
        return [settings]


def tune(model: Model, goal: Goal | None = None, budget: float = 600.0, *, prompts: Sequence[Any] = (),
         reference: Plan | None = None, batch: int = 16, seed: int = 0, sampler: str = "halving", out: Path | None = None,
         progress: Callable[[float, str], None] | None = None) -> Tuned:  # fmt: skip
    """Search, within so many seconds, and promise. A plan that is found has in `figures` what was measured of it.

    model: as loaded; prompts: what it will be asked for (default: the captions of its data); reference: the plan that counts
    as lossless; batch: samples at a time; sampler: how plans are chosen, 'halving' or 'optuna'; out: a folder for plan.json,
    tune.json and report.html; progress(share, what).
    """
    goal = goal or Goal()
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if not budget > 0:
        raise OrnsteinError(f"a budget of {budget} s allows nothing", "Give some seconds, such as 60.")
    if not isinstance(model.backbone, nn.Module):
        raise OrnsteinError(f"'{model.name}' has no network to tune", "Give a model with one.")
    trial = Trial(model, prompts, reference, batch)
    trial.check("latent", FEW)  # by which plans are searched
    trial.check(goal.metric, MANY)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    search = Search(trial, goal, budget, seed, progress, out / "tune.json" if out else None)
    search.translate()
    bases = search.solvers() if sampler == "halving" else [search.fewest(search.own(), "solvers")]
    search.save()
    if sampler == "halving":
        search.pairs(search.add(bases[:KEPT]))
    else:
        search.sampled()
    search.save()
    chosen = search.promise(search.finalists())
    plan = replace(chosen.plan, figures=_figures(search, chosen), made_for=model.use(chosen.plan)) if chosen else None
    near = min((p for p in search.points.values() if p.loss), key=lambda p: p.loss[0], default=None)
    made = Tuned(goal, plan, chosen or near, list(search.points.values()), trial.reference, time.monotonic() - search.began,
                 search.left_out)  # fmt: skip
    search.save()
    if out:
        _write(made, out)
    return made


def seconds(trial: Trial, plan: Plan) -> float:
    """Of one picture, in one batch."""
    device = next(trial.model.backbone.parameters()).device
    if plan.compress or plan.compile:  # its copy of the network may have made room for another one's
        trial.draw(plan, 0, trial.batch if plan.compile else 1)
    began = now(device)
    trial.draw(plan, 0, trial.batch)
    return (now(device) - began) / trial.batch


def _figures(search: Search, point: Point) -> dict[str, Any]:
    """What a promised plan says of itself. seconds: of a picture, medians of runs in turn with the reference."""
    (mean, low, high, n), trial, goal = point.loss, search.trial, search.goal
    pairs = [(seconds(trial, point.plan), seconds(trial, trial.reference)) for _ in range(3)]
    one, whole = (statistics.median(column) for column in zip(*pairs))
    return {"metric": goal.metric, "max_loss": goal.max_loss, "confidence": goal.confidence, "loss": mean, "low": low,
            "high": high, "n": n, "objective": goal.objective, "share": point.share, "seconds": one,
            "reference_seconds": whole, "times_faster": whole / one, "reference": label(trial.reference),
            "batch": trial.batch}  # fmt: skip


def _write(made: Tuned, out: Path) -> None:
    from ornstein.report import tuned_page

    if made.plan:
        made.plan.save(out / "plan.json")
    else:
        (out / "plan.json").unlink(missing_ok=True)  # of an earlier search: it keeps another bound
    write_atomic(out / "report.html", tuned_page(made).encode())
