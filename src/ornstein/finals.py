"""The finals of a search for a plan, and the promise: what is measured by the metric itself, and on fresh seeds.

The finalists' front of cost against loss is walked down on seeds that no search saw, the safest first, for as long as the
mean loss is below the bound with the confidence asked for: the last that is, is the plan. Tests in an order that was fixed
before do not share the doubt (fixed-sequence testing: Maurer, Hothorn, Lehmacher, "Multiple comparisons in drug clinical
trials and preclinical assays", 1995; for settings of a model: Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test",
2021, arXiv:2110.01052). Where the first is not below the bound there is one more chance, with more steps and other seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ornstein.bench import label
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan
from ornstein.cost import now
from ornstein.quality import LOSSES, Loss, Trial, fewest

__all__ = ["OBJECTIVES", "WORTH", "Finals", "Goal", "Point", "seconds"]

OBJECTIVES = ("seconds", "memory", "flops")
SOME, MANY, LEAST = 64, 512, 48  # samples of the finals, of the promise, and of that the fewest, however short the time
FINALISTS, SAFER = 8, 3  # plans measured by the metric; more steps tried for a safe beginning
CHANCES = 2  # walks on fresh seeds, among which the doubt is shared
BOLDER = 2  # plans of the second walk that are cheaper than its first
PROMISE = 1_000_003  # the first seed of the promise: far from those of the search
LIKELY = 0.75  # how sure a mean is below what counts as the loss of a finalist
SLACK = 1.15  # by how much the few samples of the search may be wrong
WORTH = 0.97  # of the cost: what saves less is not worth its loss
COMPILE = 120.0  # seconds that must be left for compiled code to be tried


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


class Finals:
    """search: what knows the trial, the goal, the time, the points that were tried and how to try another one."""

    def __init__(self, search: Any) -> None:
        self.search, self.trial, self.goal = search, search.trial, search.goal
        self.told: dict[str, Loss] = {}  # of the last measurement by the metric
        self.sure = 1 - (1 - search.goal.confidence) / CHANCES

    def __call__(self) -> list[Point]:
        """The plans to be promised, safest first: the front of cost against loss by the metric itself on more samples."""
        done = self.judged()
        self.neighbours(done)
        for _ in range(SAFER):  # the walk is to begin with one that is safe
            if self.search.over(0.7) or any(self.below(p, self.sure) <= self.goal.max_loss for p in done.values()):
                break
            if not self.judge(self.safer(list(done.values())), done):
                break
        within = [p for p in done.values() if p.loss[0] <= self.goal.max_loss]
        if self.goal.objective == "seconds":
            self.time(within)
        return self.as_compiled(self.front(within)) or sorted(done.values(), key=lambda p: self.below(p, LIKELY))[:1]

    def judge(self, point: Point | None, done: dict[str, Point]) -> bool:
        """Measure one more; False where there is none, or it is no cheaper than the reference."""
        if point is None or point.share >= 1 or label(point.plan) in done:
            return False
        self.measure(point, self.search.seed, self.search.some)
        done[label(point.plan)] = point
        return True

    def judged(self) -> dict[str, Point]:
        """The cheapest that should keep the bound, one after the other. What few samples of the latents told is put straight by
        what more samples of the metric say, so that a lucky few do not lead on. The cheapest plain one is always there."""
        done: dict[str, Point] = {}

        def likely() -> list[Point]:
            before = self.goal.max_loss / self.search.bound
            pairs = [p.loss[0] / p.proxy for p in done.values() if p.proxy > 0]
            scale = max(statistics.median(pairs), before / 3) if pairs else before
            good = [p for n, p in self.search.points.items() if n not in done and p.proxy * scale <= self.goal.max_loss * SLACK]
            return sorted((p for p in good if p.share < 1), key=lambda p: p.share)

        while len(done) < FINALISTS and not (len(done) > SAFER and self.search.over(0.6)):
            if not self.judge(next(iter(likely()), None), done):
                break
        if not any(self.plain(p.plan) for p in done.values()):
            self.judge(next((p for p in likely() if self.plain(p.plan)), None), done)
        return done

    def neighbours(self, done: dict[str, Point]) -> None:
        """The cheapest within the bound, and the cheapest plain one, with a step less and with some more."""
        within = sorted((p for p in done.values() if p.loss[0] <= self.goal.max_loss), key=lambda p: p.share)
        around = {label(p.plan): p.plan for p in (*within[:1], *[p for p in within if self.plain(p.plan)][:1])}
        for plan in around.values():
            for steps in (plan.steps + 1, plan.steps - 1, plan.steps + 2 + plan.steps // 6):
                if steps > 0 and not self.search.over(0.65):
                    self.judge(self.search.try_plan(replace(plan, steps=steps), "finals"), done)

    def safer(self, known: Sequence[Point], but: Sequence[Point] | None = None) -> Point | None:
        """The cheapest whose loss is as much less than that of the best of these as the best may miss the bound by: as its few
        samples tell, or as the metric told. Where none is known, the best, as a plain one, with as many more steps. None where
        that costs as much as the reference. but: not these (None: none that the metric has measured)."""
        measured = [p for p in known if label(p.plan) in self.told]
        known = measured or sorted(self.search.points.values(), key=lambda p: p.proxy)[:1]
        if not known:
            return None
        best = min(known, key=lambda p: p.loss[0] if p.loss else p.proxy)
        far = max(self.below(best, self.sure) / self.goal.max_loss, 1.25) if measured else 1.25
        without = self.told if but is None else {label(p.plan) for p in but}

        def less(p: Point) -> bool:
            return p.loss[0] <= best.loss[0] / far if p.loss and best.loss else p.proxy <= best.proxy / far

        fit = [p for n, p in self.search.points.items() if n not in without and p.share < 1 and less(p)]
        if fit:
            return min(fit, key=lambda p: p.share)
        more = math.ceil(best.plan.steps * (min(far, 2.0) - 1))
        bare = best.plan if self.plain(best.plan) else replace(best.plan, accelerate=(), guidance=self.trial.reference.guidance)
        point = self.search.try_plan(replace(bare, steps=best.plan.steps + more), "finals")
        return point if point and point.share < 1 else None

    def again(self, failed: Sequence[Point]) -> list[Point]:
        """What is walked after the first of these failed: one that is safer by what it missed, and then the cheaper ones that lie
        between the two, boldest last."""
        first = self.safer(failed, failed)
        if first is None:
            return []
        found, lost = [first], failed[0].proxy if failed else 0.0
        between = (p for p in self.search.points.values() if first.proxy < p.proxy < lost and p.plan.compile == first.plan.compile)
        for p in sorted(between, key=lambda p: p.proxy):
            if p.share < WORTH * found[-1].share and len(found) <= BOLDER:
                found.append(p)
        return found

    def front(self, known: Iterable[Point]) -> list[Point]:
        """Those that nothing cheaper is as good as, up to the first that is safe; this one first."""
        found: list[Point] = []
        for p in sorted((p for p in known if p.share < 1), key=lambda p: p.share):
            if not found or self.below(p, LIKELY) < self.below(found[-1], LIKELY):
                found.append(p)
                if self.below(p, self.sure) <= self.goal.max_loss:
                    break  # what is dearer is not needed
        return found[::-1]

    def plain(self, plan: Plan) -> bool:
        """Only a solver, a grid, its steps, and a way to run the network."""
        return not plan.accelerate and plan.guidance == self.trial.reference.guidance

    def below(self, p: Point, confidence: float) -> float:
        """What its mean loss is below, as it was measured last."""
        return self.told[label(p.plan)].below(confidence)

    def time(self, points: Sequence[Point]) -> None:
        """Shares as they are measured, in turn with the reference, in place of those that were predicted."""
        shares: dict[int, list[float]] = {}
        for _ in range(3 if points else 0):
            whole = seconds(self.trial, self.trial.reference)
            for i, p in enumerate(points):
                shares.setdefault(i, []).append(seconds(self.trial, p.plan) / whole)
        for i, found in shares.items():
            points[i].share = statistics.median(found)

    def as_compiled(self, front: list[Point]) -> list[Point]:
        """All of them compiled, where there is the time for it, it fits them and it makes the cheapest cheaper."""
        if self.goal.objective != "seconds" or not front or (1 - self.search.spent()) * self.search.budget < COMPILE:
            return front
        try:
            last, made = front[-1].plan, [replace(p.plan, compile=True) for p in front]
            share = statistics.median(seconds(self.trial, made[-1]) / seconds(self.trial, last) for _ in range(3))
            for plan in made[:-1] if share <= WORTH else ():
                self.trial.draw(plan, 0, self.trial.batch)  # with other parts it may not fit
            points = [Point(plan, p.share * share, p.proxy, "finals", p.loss) for plan, p in zip(made, front)]
        except OrnsteinError as error:
            self.search.left_out[label(made[-1])] = str(error)
            return front
        if share > WORTH:
            return front
        for point, p in zip(points, front):
            self.search.points[label(point.plan)], self.told[label(point.plan)] = point, self.told[label(p.plan)]
        return points

    def measure(self, point: Point, seed: int, count: int) -> Loss:
        loss = self.trial.loss(self.goal.metric, self.trial.draw(point.plan, seed, count)[0], seed)
        point.loss = (loss.mean, *loss.interval(), loss.n)
        self.told[label(point.plan)] = loss
        return loss

    # ---- the promise

    def promise(self, front: Sequence[Point]) -> Point | None:
        """The last of the front that keeps the bound on fresh seeds, as do all before it. Where the first does not, one more
        chance, with plans that are safer by as much as it missed the bound."""
        for chance in range(CHANCES):
            if chance and self.search.over(1.0):  # one walk there is, however short the time
                return None
            if chance or not front:
                front = self.again(front)
            if front and (won := self.walk(front)):
                return won
        return None

    def walk(self, points: Sequence[Point]) -> Point | None:
        """On the same fresh seeds, which no other search has, down to the first that does not surely keep the bound."""
        seed, won = PROMISE + self.search.seed * 1000 + self.search.walks, None
        count = self.affordable(points)
        self.search.walks += 1
        for point in points:
            if won and self.search.over(1.5):
                break
            loss, point.stage = self.measure(point, seed, count), "promise"
            if not loss.below(self.sure) <= self.goal.max_loss:
                point.why = f"with {self.sure:.1%} below {loss.below(self.sure):.4g}: not below {self.goal.max_loss:g}"
                break
            point.why = "keeps the bound, as a cheaper one does"
            won = point
        if won:
            won.why = ""
        return won

    def affordable(self, points: Sequence[Point]) -> int:
        """Samples of a walk: most of what is left of the time, whole batches."""
        share = 1 + sum(p.plan.steps for p in points) / self.trial.reference.steps
        count = int(max(0.2, 0.7 * (1 - self.search.spent())) * self.search.budget / (self.search.second * share))
        whole = count // self.trial.batch * self.trial.batch  # compiled code wants batches of one size
        return min(MANY, max(LEAST, fewest(self.goal.metric), whole))


def seconds(trial: Trial, plan: Plan) -> float:
    """Of one picture, in one batch."""
    device = next(trial.model.backbone.parameters()).device
    if plan.compress or plan.compile:  # its copy of the network may have made room for another one's
        trial.draw(plan, 0, trial.batch if plan.compile else 1)
    began = now(device)
    trial.draw(plan, 0, trial.batch)
    return (now(device) - began) / trial.batch
