"""Plugins in a pipeline's own loop: hooks tell the seam where each call of a network stands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.bridges.layers.terms import Terms
from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.record import Record
from ornstein.core.seam import Run, attach, calling, running
from ornstein.core.sites import Seat

__all__ = ["SEATS", "Accelerated", "accelerate", "networks", "pipe_of_call", "run"]

# Blocks whose return statement does not name what they hand on, found by reading every block class of diffusers 0.42.
SEATS: dict[str, Seat] = {
    "Cosmos3VLTextMoTDecoderLayer": Seat("block", streams=("und_seq", "gen_seq")),
    "Flux3ModeTransformerBlock": Seat("block", streams=("hidden_states",)),
    "Kandinsky6SRTransformerBlock": Seat("block", streams=("hidden_states",)),
    "Kandinsky6TransformerEncoderBlock": Seat("block", streams=("x",)),
    "RFD4ProteinaTrunkLayer": Seat("block", streams=("values",)),
}
NAMES = ("transformer", "transformer_2", "unet", "prior", "decoder")

_CALLS: ContextVar[_Calls | None] = ContextVar("ornstein_pipeline_calls", default=None)
_OPEN: ContextVar[tuple] = ContextVar("ornstein_open_calls", default=())  # settings of the network calls under way


@dataclass
class _Calls:
    """Where a pipeline's own loop stands, told from the timesteps that its networks are given."""

    pipe: Any
    run: Run
    terms: Terms | None
    mark: object  # of the hooks that count this call
    step: int = -1
    steps: int = 0
    last: float | None = None
    asked: dict[str, int] = field(default_factory=dict)  # network -> calls at this timestep

    def clock(self, name: str, first: bool, told: float, batch: int) -> Clock:
        """told: the scheduler's timestep. The same again: another branch; a higher one: another trajectory."""
        if self.last is None or told > self.last:
            self.run.clear()
            self.step, self.steps = -1, len(set(_timesteps(self.pipe)))
        if told != self.last:
            self.step, self.last, self.asked = self.step + 1, told, {}
        number = self.asked.get(name, 0)
        self.asked[name] = number + 1
        self.run.record.calls["evaluations"] += 1
        self.run.record.steps = self.step + 1
        branch = "cond" if number == 0 else f"call{number}"
        return Clock(self.step, number, max(self.steps, self.step + 1), self.terms.time(told) if self.terms else told,
                     branch if first else f"{name}:{branch}", tuple(range(batch)))  # fmt: skip


def pipe_of_call() -> Any:
    """The pipeline whose call is under way here, or None."""
    calls = _CALLS.get()
    return None if calls is None else calls.pipe


def _timesteps(pipe: Any) -> list[float]:
    try:
        return torch.as_tensor(pipe.scheduler.timesteps).tolist()
    except (AttributeError, OrnsteinError, TypeError):
        return []


def networks(pipe: Any) -> dict[str, nn.Module]:
    """The denoising networks of a pipeline by attribute, in the order in which it asks them."""
    found = {n: getattr(pipe, n) for n in NAMES if isinstance(getattr(pipe, n, None), nn.Module)}
    if not found:
        raise OrnsteinError(f"{type(pipe).__name__} has no denoising network", f"Looked at: {', '.join(NAMES)}.")
    return found


def _terms(pipe: Any) -> Terms | None:
    try:
        return Terms.of(pipe.scheduler)
    except (OrnsteinError, AttributeError):
        return None  # only the unit of the clock's time depends on it


def _watch(name: str, network: nn.Module, first: bool, mark: object) -> Callable[[], None]:
    """Hooks that set the clock of each call of this network inside of the runs that carry the mark."""
    parameters = list(inspect.signature(type(network).forward).parameters)[1:]

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls, setting = _CALLS.get(), None
        if calls is not None and calls.mark is mark:
            given = dict(zip(parameters, args)) | kwargs
            batch = next(len(v) for v in given.values() if isinstance(v, Tensor) and v.ndim > 1)
            told = float(torch.as_tensor(given.get("timestep", 0.0)).max())
            told = told / calls.terms.unit(module) if calls.terms else told
            setting = calling(calls.clock(name, first, told, batch))
            setting.__enter__()
        _OPEN.set((*_OPEN.get(), setting))

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if _OPEN.get():
            *rest, setting = _OPEN.get()
            _OPEN.set(tuple(rest))
            if setting is not None:
                setting.__exit__()

    handles = [network.register_forward_pre_hook(before, with_kwargs=True),
               network.register_forward_hook(after, with_kwargs=True, always_call=True)]  # fmt: skip
    return lambda: [h.remove() for h in handles]


def _fit(pipe: Any, plugins: Any, mark: object, scope: object) -> Callable[[], None]:
    undo: list[Callable[[], None]] = []

    def detach() -> None:
        while undo:
            undo.pop()()

    try:
        for index, (name, network) in enumerate(networks(pipe).items()):
            undo.append(attach(network, plugins, SEATS, scope))
            undo.append(_watch(name, network, index == 0, mark))
    except OrnsteinError:
        detach()
        raise
    return detach


@contextmanager
def _within(pipe: Any, mark: object, scope: object) -> Iterator[Record]:
    """The network calls inside belong to one fresh run."""
    current = Run(scope=scope)
    token = _CALLS.set(_Calls(pipe, current, _terms(pipe), mark))
    try:
        with running(current):
            yield current.record
    finally:
        _CALLS.reset(token)
        current.record.finish()


@contextmanager
def run(pipe: Any, plugins: Any) -> Iterator[Record]:
    """with run(pipe, plugins) as record: pipe(...) - a call of the pipeline with plugins at its networks' sites.

    Steps are counted from the timesteps that the network is told (reading one waits for the device). The second call at
    one timestep is another branch; a timestep that rises begins a new trajectory with empty memories. Threads may do
    this on one pipeline at once, each with its own plugins.
    """
    mark = object()
    detach = _fit(pipe, plugins, mark, mark)
    try:
        with _within(pipe, mark, mark) as record:
            yield record
    finally:
        detach()


@dataclass
class Accelerated:
    """A pipeline under plugins. Calling it takes them off; `record` is of the call that finished last."""

    pipe: Any
    undo: Callable[[], None]
    record: Record | None = None

    def __call__(self) -> None:
        self.undo()


def accelerate(pipe: Any, plugins: Any) -> Accelerated:
    """Attach plugins to a pipeline for all its later calls, each a run of its own. Hands back what takes them off."""
    plain, mark = type(pipe), object()
    if hasattr(plain, "_ornstein"):
        raise OrnsteinError(f"this {plain.__name__} is accelerated already", "Give all plugins at once.")
    detach = _fit(pipe, plugins, mark, None)
    handle = Accelerated(pipe, detach)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls = _CALLS.get()
        if calls is not None and calls.pipe is self:  # inside of `run`: that run is this call's
            return plain.__call__(self, *args, **kwargs)
        with _within(self, mark, None) as record:
            result = plain.__call__(self, *args, **kwargs)
        handle.record = record
        return result

    __call__.__signature__ = inspect.signature(plain.__call__)
    # a class of the same name, because Python looks for __call__ on the class alone
    members = {"__call__": __call__, "__module__": plain.__module__, "_ornstein": True}
    pipe.__class__ = type(plain.__name__, (plain,), members)

    def undo() -> None:
        pipe.__class__ = plain
        detach()

    handle.undo = undo
    return handle
