"""The fastest plan that keeps a bound on the quality of *this* model: searched, then promised on seeds the search never saw.

The search spends little where little is at stake. First the bound is put in terms of the error of the latents, which few
samples tell, and the fastest way to run the network that costs hardly any of it (bfloat16, int8) is taken. Then each solver
and grid is given the fewest steps that keep the bound (by halving); the best go on with what can be added to them:
accelerations, guidance in an interval, and pairs of what helped, each under the rules of Effects. What comes
after is in `ornstein.finals`: the best are measured by the metric itself and then promised on fresh seeds, or none is.
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
from ornstein.cost import Cost, predict
from ornstein.finals import LEAST, SLACK, SOME, WORTH, Finals, Goal, Point, seconds
from ornstein.model import Subject
from ornstein.quality import PAIRED, Trial, fewest

__all__ = ["Goal", "Point", "Tuned", "tune"]

LADDER = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 23, 26, 30, 35, 40, 50)
SOLVERS = ("deis", "deis:points=2", "deis:points=3", "dpmpp2m", "unipc", "pndm", "ddim")
GRIDS = ("beta", "uniform", "logsnr")
SAMPLERS = ("halving", "optuna")
FEW = 16  # samples of the search
KEPT = 3  # of the best, to which something is added
SAVE = 5.0  # seconds between two savings


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
        self.way: dict[str, Any] = {}  # how the network is run, as changes of a plan
        self.full = self.price(trial.reference, None)
        self.second = predict(self.model, trial.reference, trial.batch, trial.prompts).seconds / trial.batch
        # the finals draw the reference too: that is to take no more than a twentieth of the time
        self.some = max(fewest(goal.metric), LEAST // 3, min(SOME, int(0.05 * budget / self.second)))
        self.bound, self.walks, self.saved = goal.max_loss, 0, time.monotonic()
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
            if self.over(0.1):
                break
            x, _ = self.trial.draw(replace(own, steps=steps), self.seed, self.some)
            loss = self.trial.loss(self.goal.metric, x, self.seed)
            if loss.mean <= self.goal.max_loss:
                kept = max(kept, self.trial.loss("latent", x, self.seed).mean)
            elif self.goal.metric in PAIRED and kept:
                break
        few = replace(own, steps=max(1, own.steps // 3))  # where none kept it
        self.bound = 1.5 * kept or self.trial.loss("latent", self.trial.draw(few, self.seed, FEW)[0], self.seed).mean

    def ways(self) -> None:
        """The cheapest way to run the network whose own error is a third of the bound at most."""
        if self.goal.objective == "flops":
            return
        base = replace(self.own(), steps=min(8, self.trial.reference.steps))
        x, record = self.trial.draw(base, self.seed, FEW)
        least, whole = WORTH, self.price(base, record)
        for change in ({"dtype": "bfloat16"}, {"compress": ("int8",)}):
            plan = replace(base, **change)
            try:
                other, record = self.trial.draw(plan, self.seed, FEW)
                gap = (other - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
                if self.over(0.15) or not gap.mean().item() <= self.bound / 3:
                    continue
                if self.goal.objective == "seconds":
                    turns = [seconds(self.trial, plan) / seconds(self.trial, base) for _ in range(3)]
                    share = statistics.median(turns)
                else:
                    share = self.price(plan, record) / whole
            except OrnsteinError as error:
                self.left_out[label(plan)] = str(error)
                continue
            if share < least:
                least, self.way = share, change

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
        base = self.base()
        pairs = [(base.solver, base.grid), *((solver, grid) for grid in GRIDS for solver in SOLVERS)]
        arms = [replace(base, solver=solver, grid=grid) for solver, grid in dict.fromkeys(pairs)]
        found = []
        for k, arm in enumerate([*arms[:1], *([self.own()] if self.way else []), *arms[1:]]):
            if k and self.over(0.3):
                break
            found.append(self.fewest(arm, "solvers"))
        return sorted((p for p in found if p), key=lambda p: p.share)

    def own(self) -> Plan:
        return replace(self.trial.reference, figures={})

    def base(self) -> Plan:
        """The reference's own, as the network is run here."""
        return replace(self.own(), **self.way)

    def extras(self, base: Plan) -> Iterator[Plan]:
        """The plan with one thing added."""
        for part in base.guidance:
            if (part.startswith("cfg") or part == catalog.OWN) and "interval" not in part:
                for interval in ("(0.1,0.9)", "(0.2,0.8)", "(0,0.8)"):
                    limited = f"{part}{',' if ':' in part else ':'}interval={interval}"
                    yield replace(base, guidance=tuple(limited if p == part else p for p in base.guidance))
        for part in accelerations(self.model):
            yield replace(base, accelerate=(*base.accelerate, part))
        if not self.way:  # the error of each was too large beside the bound, but not with fewer parts or more steps, perhaps
            yield replace(base, compress=("int8",))
            yield replace(base, dtype="bfloat16")

    def add(self, bases: Sequence[Point]) -> list[Point]:
        """What helped, when added to the best."""
        found = []
        for base in bases:
            for plan in self.extras(base.plan):
                if self.over(0.4):
                    return found
                better = self.fewest(plan, "extras", base.share)
                if better and better.share < base.share:
                    found.append(better)
        return sorted(found, key=lambda p: p.share)

    def pairs(self, helped: Sequence[Point]) -> None:
        """Two that helped, on one base."""
        for i, one in enumerate(helped[:4]):
            for two in helped[i + 1 : 4]:
                if self.over(0.45):
                    return
                a, b = one.plan, two.plan
                if (a.solver, a.grid) == (b.solver, b.grid):
                    merged = {k: tuple(dict.fromkeys((*getattr(a, k), *getattr(b, k)))) for k in ("accelerate", "compress")}
                    guidance = a.guidance if a.guidance != self.own().guidance else b.guidance
                    dtype = b.dtype if a.dtype == "float32" else a.dtype
                    self.fewest(replace(a, guidance=guidance, dtype=dtype, **merged), "pairs", one.share)

    def sampled(self) -> None:
        """The same space by Optuna's tree-structured Parzen estimator: least cost, with a penalty outside of the bound."""
        try:
            import optuna
        except ImportError as error:
            raise OrnsteinError("the sampler 'optuna' is not installed", 'Run `pip install "ornstein[tune]"`.') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        extras = [self.base(), *self.extras(self.base())]
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
        while not self.over(0.45):
            study.optimize(judge, n_trials=1)

    # ---- what is kept

    def key(self) -> dict[str, Any]:
        """Of what this is a search: another one does not go on from it."""
        trial = self.trial
        return {"model": fingerprint(self.model.backbone), "goal": asdict(self.goal), "reference": label(trial.reference),
                "batch": trial.batch, "seed": self.seed, "prompts": [str(p) for p in trial.prompts]}  # fmt: skip

    def save(self) -> None:
        self.saved = time.monotonic()
        if self.file:
            told = {"key": self.key(), "points": [asdict(p) for p in self.points.values()], "left_out": self.left_out,
                    "walks": self.walks}  # fmt: skip
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
                self.walks = int(told["walks"])  # what was refused is tried again on other seeds
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.points.clear()


def accelerations(model: Subject) -> list[str]:
    """The accelerations of the house that fit this network, as their evidence tries them, and looser and tighter ones."""
    from ornstein.core.seam import attach

    found = []
    for entry in catalog.entries("acceleration"):
        trial = getattr(importlib.import_module(f"ornstein.evidence.acceleration.{entry.name}"), "TRIAL", None)
        for settings in _knobs(trial[1]) if trial else ():
            text = f"{entry.name}:{settings}" if settings else entry.name
            try:
                attach(model.backbone, catalog.build("acceleration", text), model.seats)()
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


def tune(model: Subject, goal: Goal | None = None, budget: float = 600.0, *, prompts: Sequence[Any] = (),
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
    trial.check(goal.metric, max(LEAST, fewest(goal.metric)))
    if out:
        out.mkdir(parents=True, exist_ok=True)
    search = Search(trial, goal, budget, seed, progress, out / "tune.json" if out else None)
    search.translate()
    search.ways()
    bases = search.solvers() if sampler == "halving" else [search.fewest(search.base(), "solvers")]
    search.save()
    if sampler == "halving":
        search.pairs(search.add(bases[:KEPT]))
    else:
        search.sampled()
    search.save()
    finals = Finals(search)
    chosen = finals.promise(finals())
    plan = replace(chosen.plan, figures=_figures(search, chosen), made_for=model.use(chosen.plan)) if chosen else None
    near = min((p for p in search.points.values() if p.loss), key=lambda p: p.loss[0], default=None)
    made = Tuned(goal, plan, chosen or near, list(search.points.values()), trial.reference, time.monotonic() - search.began,
                 search.left_out)  # fmt: skip
    search.save()
    if out:
        _write(made, out)
    return made


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
