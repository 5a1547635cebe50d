"""A unified solver: every decision of an exponential integrator is free at every step, from DDIM to a corrected multistep.

A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic Models, Liu, Ning, Lin, Yang, Wang, 2023,
arXiv:2312.07243. With f = x0 or noise, lambda = log(a/s), h = lambda_s - lambda_t and a Taylor series of n terms about t,
x_s = a_s x0 + s_s noise + a_s sum_{k=1..n-1} I_k x0^(k), or - s_s sum J_k noise^(k): I_k = h^k/k! - I_{k-1}, I_0 = 1 - e^-h;
J_k = J_{k-1} - h^k/k!, J_0 = e^h - 1. Derivatives come from differences of earlier answers. The corrector takes a step again
once the answer at its end is known, which the next step asks for anyway. Costs one network call per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ornstein.core.artefact import Artefact
from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process
from ornstein.solvers.layers.series import remembered, weights

__all__ = ["USF", "DECISIONS"]

# each decision's options, in the order in which a found schedule numbers them: `decisions`, int64 [steps, 5]
DECISIONS = {"predict": ("x0", "noise"), "terms": (1, 2, 3), "estimate": ("full", "low"),
             "scale": ("leading", "exact"), "correct": (False, True)}  # fmt: skip
Node = tuple[Any, Tensor, Tensor]  # a time, x0 and noise said there


@dataclass(frozen=True)
class USF:
    """Each decision is one value, or a tuple with one per step. As it stands this is DPM-Solver++(2M); terms=1 is DDIM."""

    predict: str | tuple[str, ...] = "x0"  # what the series is of: x0 or noise
    terms: int | tuple[int, ...] = 2  # n, 1 to 3; fewer where there are not as many earlier answers
    estimate: str | tuple[str, ...] = "full"  # x0': of the parabola through three points, or 'low': of the line through two
    scale: str | tuple[str, ...] = "leading"  # I_k as 'exact', or I_0 h^k/(k+1)! as DPM-Solver++(2M) has it
    correct: bool | tuple[bool, ...] = False  # whether the step is taken again when its end's answer is known
    schedule: str | Path | Artefact = ""  # a found schedule (file or Artefact), which then decides all of the above

    def __post_init__(self) -> None:
        if self.schedule:
            found = self.schedule
            found = found if isinstance(found, Artefact) else Artefact.load(found, "schedule")
            for name, value in _decoded(found).items():
                object.__setattr__(self, name, value)
            object.__setattr__(self, "_found", found)
        lengths = set()
        for name, options in DECISIONS.items():
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, value := tuple(value))
            for v in value if isinstance(value, tuple) else (value,):
                if v not in options:
                    raise unknown(f"{name} of USF", str(v), [str(o) for o in options])
            lengths |= {len(value)} if isinstance(value, tuple) else set()
        if len(lengths) > 1:
            raise OrnsteinError(f"lists of {sorted(lengths)} steps in one USF", "Give each list one value per step.")

    @property
    def order(self) -> int:
        """The first step of a run has one point only, so that without a corrector no setting is above order 2."""
        terms, estimate, scale, correct = (v if isinstance(v, tuple) else (v,) for v in
                                           (self.terms, self.estimate, self.scale, self.correct))  # fmt: skip
        sharp = "leading" not in scale and "low" not in estimate
        return min(min(terms) + all(correct), 2 + all(correct) if sharp else 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"k": 0, "past": ()}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to, past, said = process.at(t, x), process.at(s, x), memory["past"], denoise(x, t)
        clock = getattr(denoise, "clock", None)  # it knows the step also after a rewind
        k = memory["k"] if clock is None else clock.step
        rule = self._rule(k, process, t, clock)
        if past and self._rule(k - 1)[4]:
            new = (t, said.x0, said.noise)
            x = _advance(process, x, now, past[0], (new, *past[1:])[:2], self._rule(k - 1))
            said = Prediction(x, now, rule[0], said.get(rule[0]))  # the answer stays, the place is a better one
        here = (t, said.x0, said.noise)
        out = _advance(process, x, to, here, past[: rule[1] - 1], rule)
        return out, {"k": k + 1, "past": (here, *past)[:2]}

    def _rule(self, k: int, process: Any = None, t: Any = None, clock: Any = None) -> tuple:
        """The decisions of step k; with the rest given, checks that the schedule is of this run."""
        values = tuple(getattr(self, name) for name in DECISIONS)
        listed = max((len(v) for v in values if isinstance(v, tuple)), default=0)
        if listed and (k >= listed or (clock is not None and clock.steps != listed)):
            raise OrnsteinError(f"USF has decisions for {listed} steps, and this run has {getattr(clock, 'steps', 'more')}",
                                f"Sample with {listed} steps, or give one value for all.")  # fmt: skip
        found = self.__dict__.get("_found")
        if found is not None and process is not None:
            _check(found, k, process, t)
        return tuple(v[k] if isinstance(v, tuple) else v for v in values)


def _decoded(found: Artefact) -> dict[str, tuple]:
    if "decisions" not in found.arrays or found.arrays["decisions"].shape[1:] != (len(DECISIONS),):
        what = f"this schedule has no decisions [steps, {len(DECISIONS)}]"
        raise OrnsteinError(what, "Search with a start that has them, or pass its times as the rule of another solver.")
    columns = found.arrays["decisions"].T.tolist()
    return {name: tuple(options[i] for i in column) for (name, options), column in zip(DECISIONS.items(), columns)}


def _check(found: Artefact, k: int, process: Process, t: Any) -> None:
    """The schedule is of this process, and the run walks on its times."""
    if k == 0 and found.made_for:
        found.check(process=process)
    if "times" in found.arrays and (not isinstance(t, Tensor) or t.ndim == 0):
        mine = float(found.arrays["times"][k])
        if abs(mine - float(t)) > 1e-5 * max(1.0, mine):
            raise OrnsteinError(f"step {k} begins at t = {float(t):.6g}, the schedule was found for {mine:.6g}",
                                "Give sample(rule=...) the times of the schedule.")  # fmt: skip


def _advance(process: Process, x: Tensor, to: Levels, base: Node, nodes: Sequence[Node], rule: tuple) -> Tensor:
    """From the base node to `to`: DDIM, and the further terms of the series from differences to the other nodes."""
    predict, _, estimate, scale, _ = rule
    out = to.a * base[1] + to.s * base[2]
    if not nodes:
        return out
    which, front = (1, to.a) if predict == "x0" else (2, to.s)
    begin = process.at(base[0], x).logsnr
    far = [(to.logsnr - begin) / 2, *((process.at(n[0], x).logsnr - begin) / 2 for n in nodes)]
    settings = (predict == "noise", estimate == "low", scale == "exact")
    scalar = all(v.ndim == 0 for v in far)
    counts = remembered(*settings, *map(float, far)) if scalar else weights(*settings, *far)
    front = float(front) if scalar and front.ndim == 0 else front
    for count, node in zip(counts, nodes):
        out = out + front * count * (node[which] - base[which])
    return out
