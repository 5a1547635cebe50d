"""Evidence for rollover budget forcing: a reward that counts, a smooth one and digits, at equal calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ornstein.core import catalog
from ornstein.core.loop import Controller, State, sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.steering.best_of_n import BestOfN
from ornstein.steering.rbf import RBF, converted
from ornstein.steering.svdd import SVDD
from ornstein.testbeds import Mixture

from ._particles import digits, judged, wished

CLAIM = (
    "With 8 calls a step on average, and a reward that counts (how many of 8 numbers exceed 0.8), its mean reward exceeds those "
    "of the best of 8, of the same without rollover and of SVDD with 8 candidates, and no sample takes more calls than it may."
)
STEPS, QUOTA, DIMS, LABEL = 10, 8, 8, 8


def counts(x: Tensor, cond: object = None) -> Tensor:
    """Flat almost everywhere."""
    return (x > 0.8).double().sum(1)


def near(x: Tensor, cond: object = None) -> Tensor:
    return -(x.double() - 1).square().sum(1)


def tries(reward: Callable) -> dict[str, tuple[Controller | None, str, bool, int]]:
    """name -> part, solver, whether on the converted grid, steps."""
    walk = "ddim:eta=1"
    return {"RBF": (RBF(reward, QUOTA), walk, False, STEPS),
            "RBF, grid converted to VP": (RBF(reward, QUOTA), walk, True, STEPS),
            "RBF, first candidate by the ODE": (RBF(reward, QUOTA), "ddim", False, STEPS),
            "RBF without rollover": (RBF(reward, QUOTA, rollover=False), walk, False, STEPS),
            "SVDD": (SVDD(reward, QUOTA), walk, False, STEPS), "best of 8": (BestOfN(reward, QUOTA), walk, False, STEPS),
            "one sample, 8 times the steps": (None, walk, False, QUOTA * STEPS)}  # fmt: skip


def rewards(name: str, reward: Callable, only: Sequence[str], seeds: int, count: int) -> tuple[dict[str, Row], bool]:
    """Mixtures of ten Gaussians in 8 dimensions; and whether no sample of RBF took more calls than it may. only: of the tries."""
    flow, vp = (catalog.build("processes", p) for p in ("flow", "vp"))
    rows, kept = {}, True
    for label in only:
        part, solver, moved, steps = tries(reward)[label]
        found, used = [], 0.0
        for seed in range(seeds):
            facts: dict = {}
            rule = converted(flow, vp, steps).tolist() if moved else "uniform"
            x = sample(Mixture.random(flow, DIMS, 10, 0.5, seed), (count, DIMS), catalog.build("solvers", solver), steps, rule=rule,
                       seed=seed, controllers=[part, _Facts(facts)] if part else [])  # fmt: skip
            found.append(float(reward(x).double().mean()))
            if "rbf" in facts:
                calls = facts["rbf"]["used"].sum(1)
                kept, used = kept and bool((calls <= QUOTA * STEPS).all()), used + float(calls.double().mean()) / seeds
        kind = "method" if label.startswith("RBF") else "natural" if part is None else "equal-cost"
        rows[label] = Row(label, kind, f"mean reward, {name} (higher)", found, f"{used or QUOTA * STEPS:.0f} NFE")
    return rows, kept


class _Facts(Controller):
    """Hands the facts of a run on."""

    def __init__(self, into: dict) -> None:
        self.into = into

    def end(self, state: State) -> State:
        self.into |= state.facts
        return state


def pictures(seeds: int, count: int) -> list[Row]:
    """Digits without a class, and a reward that wants one; 4 calls a step."""
    rows, reward = [], wished(LABEL)
    for name, part in {"RBF": RBF(reward, 4), "SVDD": SVDD(reward, 4), "best of 4": BestOfN(reward, 4)}.items():
        done = [digits(part, count, STEPS, seed) for seed in range(seeds)]
        kind, ms = "method" if name == "RBF" else "equal-cost", 1e3 * sum(s for _, s in done) / count / seeds
        cost = f"{4 * STEPS} NFE, {4 if name == 'best of 4' else 4 * STEPS} rewards, {ms:.0f} ms a sample"
        rows += judged(name, kind, [x for x, _ in done], LABEL, cost)
    return rows


def run(quick: bool = True) -> Evidence:
    """Three seeds of 40 samples on mixtures (ten of 400 in full), three of 6 digits (of 100)."""
    seeds, count, every = *((3, 40) if quick else (10, 400)), list(tries(counts))
    found, kept = rewards("a count", counts, every, seeds, count)
    smooth, also = rewards("smooth", near, ["RBF", "SVDD", "best of 8"] if quick else every, seeds, count)
    mean = {n: r.mean for n, r in found.items()}
    base = mean["RBF"] > max(mean["best of 8"], mean["RBF without rollover"]) and kept and also
    rows = [*found.values(), *smooth.values(), *pictures(3, 6 if quick else 100)]
    doubt = 2 * ((found["RBF"].spread ** 2 + found["SVDD"].spread ** 2) / seeds) ** 0.5  # two standard errors
    return Evidence(CLAIM, rows, verdict(base and mean["RBF"] > mean["SVDD"] + doubt, base),
                    "What is saved on the way is spent on the last step's candidates.")  # fmt: skip
