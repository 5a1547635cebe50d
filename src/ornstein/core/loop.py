"""The sampling loop: thread-safe, re-entrant, without hidden state, and open to controllers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .clock import Clock, NoiseSource
from .denoiser import Denoises
from .errors import OrnsteinError
from .prediction import Prediction
from .process import Process, grid
from .record import Record
from .seam import Run, gather, running

__all__ = ["Controller", "Evaluate", "Solver", "State", "sample"]


class Solver(Protocol):
    """One integration rule. `order`: of global error in the step size (0 where it is a random walk)."""

    order: int

    def start(self, x: Tensor, noise: NoiseSource) -> Any:
        """Memory for a batch: any nest whose tensors have the samples first. The solver itself stores nothing."""

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: Any) -> tuple[Tensor, Any]:  # fmt: skip
        """From time t down to s (each [] or [B]); `denoise(x, t)` asks the network and may be called several times."""


@dataclass(frozen=True)
class State:
    """Where a trajectory stands: enough to stop, to go on, to copy and to choose from. x: [B, ...]."""

    x: Tensor
    step: int
    memory: Any
    noise: NoiseSource
    cond: Any
    ids: tuple
    facts: dict = field(default_factory=dict)  # what controllers remember; tensors with samples first follow `take`
    process: Process | None = None
    taken: Tensor | None = None  # rows chosen by `take`, for the loop to tell the plugins
    times: Tensor | None = None  # the grid [steps + 1] of the run
    said: Prediction | None = None  # in the step that led here, by the (guided) denoiser, at the step's first evaluation

    @property
    def steps(self) -> int:
        """How many steps the run has in all."""
        return 0 if self.times is None else len(self.times) - 1

    def take(self, index: Tensor, generation: int = 0) -> State:
        """The chosen rows as particles: memory follows, copies get fresh noise and ids of their own."""
        n, seen, ids = len(self.ids), Counter(), []
        for i in index.tolist():
            ids.append((self.ids[i], generation, seen[i]))
            seen[i] += 1
        def fork(node: Any) -> NoiseSource | None:
            return node.fork(index, generation) if isinstance(node, NoiseSource) else None

        memory = gather(self.memory, index, n, special=fork)  # wherever in its memory a solver keeps its noise
        facts = gather(self.facts, index, n, special=lambda node: node if isinstance(node, State) else None)
        return replace(self, x=self.x[index], ids=tuple(ids), noise=fork(self.noise), cond=gather(self.cond, index, n),
                       taken=index, memory=memory, facts=facts, said=self.said and self.said.take(index))  # fmt: skip


class Controller:
    """The loop's hooks, all of which do nothing here. A controller keeps what it knows in State.facts."""

    def begin(self, state: State) -> State:
        """Before the first step: expand into particles, replace the start."""
        return state

    def on_prediction(self, clock: Clock, x: Tensor, prediction: Prediction) -> Prediction:
        """Each answer of the (guided) denoiser, before the solver uses it."""
        return prediction

    def after(self, before: State, now: State) -> State:
        """After a step: accept `now`, go back to `before` (or any earlier state), or choose rows by State.take."""
        return now

    def end(self, state: State) -> State:
        """After the last step: pick the winners."""
        return state


class Evaluate:
    """The denoiser bound to condition, clock and controllers for one step; counts its calls."""

    __slots__ = ("clock", "cond", "controllers", "denoiser", "first", "record")

    def __init__(self, denoiser: Denoises, cond: Any, clock: Clock, controllers: Sequence[Controller],
                 record: Record) -> None:  # fmt: skip
        self.denoiser, self.cond, self.clock, self.controllers, self.record = denoiser, cond, clock, controllers, record
        self.first: Prediction | None = None

    def __call__(self, x: Tensor, t: Tensor | float) -> Prediction:
        clock = replace(self.clock, t=t)
        self.clock = replace(self.clock, evaluation=clock.evaluation + 1)
        self.record.calls["evaluations"] += 1
        prediction = self.denoiser(x, t, self.cond, clock)
        for controller in self.controllers:
            prediction = controller.on_prediction(clock, x, prediction)
        self.first = self.first or prediction
        return prediction


@torch.no_grad()
def sample(denoiser: Denoises, noise: Tensor | Sequence[int], solver: Solver, steps: int = 20, *, cond: Any = None,
           seed: int | Sequence[int] = 0, ids: Sequence | None = None, rule: str | Sequence[float] = "uniform",
           controllers: Sequence[Controller] = (), start: State | None = None, run: Run | None = None,
           progress: Callable[[State, int], None] | None = None, dtype: torch.dtype = torch.float32,
           device: torch.device | str = "cpu") -> Tensor:  # fmt: skip
    """Samples [B, ...] from a denoiser.

    noise: the shape [B, ...] (noise then comes from `seed` and `ids`), or the start x at the prior's time itself, whose
    type and device then count.
    cond: dict of tensors [B, ...]; rule: time grid; start: a State to go on from, at its own step and with its own
    condition, ids and noise; run: collects record and plugin memories; progress(state, steps): called after each step.
    A sample depends on (seed, id) alone, never on its neighbours in the batch.
    """
    process = denoiser.process
    given = start.x if start is not None else noise
    if isinstance(given, Tensor):
        dtype, device = given.dtype, given.device
    times = grid(process, steps, rule)
    steps, run = len(times) - 1, run or Run()
    state = replace(start or _begin(process, noise, solver, cond, seed, ids, dtype, device), times=times)
    if start is None:
        run.forget(state.ids)
    with running(run):
        for controller in controllers if start is None else ():
            begun = controller.begin(state)
            if begun is not state:
                state = replace(begun, taken=None, memory=solver.start(begun.x, begun.noise))
        while state.step < steps:
            state = _step(denoiser, solver, times, state, steps, controllers, run)
            if progress is not None:
                progress(state, steps)
        for controller in controllers:
            state = controller.end(state)
    run.record.facts.update(state.facts)
    run.record.steps = steps
    run.record.finish()
    return state.x


def _begin(process: Process, noise: Any, solver: Solver, cond: Any, seed: Any, ids: Any, dtype: Any,
           device: Any) -> State:  # fmt: skip
    shape = tuple(noise.shape) if isinstance(noise, Tensor) else tuple(noise)
    ids = tuple(range(shape[0])) if ids is None else tuple(ids)
    if len(ids) != shape[0]:
        raise OrnsteinError(f"{len(ids)} sample ids for a batch of {shape[0]}", "Give one id per sample.")
    for name, value in (cond or {}).items() if isinstance(cond, dict) else ():
        if isinstance(value, Tensor) and len(value) != shape[0]:
            what = f"condition '{name}' has {len(value)} rows for a batch of {shape[0]}"
            raise OrnsteinError(what, "Give one row per sample.")
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise OrnsteinError(f"condition '{name}' holds values that are not finite", "Look at what made it.")
    if not all(isinstance(i, int) for i in ids):
        raise OrnsteinError(f"sample ids {ids!r} are not whole numbers", "Number the samples.")
    source = NoiseSource.of(seed, ids)
    like = torch.empty(shape, dtype=dtype, device=device)
    x = noise if isinstance(noise, Tensor) else process.prior(source.draw(-1, like))
    return State(x, 0, solver.start(x, source), source, cond, ids, process=process)


def _step(denoiser: Denoises, solver: Solver, times: Tensor, state: State, steps: int,
          controllers: Sequence[Controller], run: Run) -> State:  # fmt: skip
    k = state.step
    clock = Clock(k, 0, steps, times[k], "cond", state.ids, times=times)
    evaluate = Evaluate(denoiser, state.cond, clock, controllers, run.record)
    x, memory = solver.step(evaluate, denoiser.process, state.x, times[k], times[k + 1], state.memory)
    now = replace(state, x=x, memory=memory, step=k + 1, said=evaluate.first)
    for controller in controllers:
        chosen = controller.after(state, now)
        if chosen.step < now.step:  # a rewind: what plugins and solver remember is of another trajectory
            run.clear()
            if chosen.taken is None:  # the same noise again would be the same mistake again
                chosen = replace(chosen, noise=(now if now.ids == chosen.ids else chosen).noise.anew())
            chosen = replace(chosen, memory=solver.start(chosen.x, chosen.noise))
        if chosen.taken is not None:
            run.gather(chosen.taken, now.ids, chosen.ids)
            chosen = replace(chosen, taken=None)
        now = chosen
    return now
