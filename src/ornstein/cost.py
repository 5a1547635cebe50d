"""What a plan will cost on this machine: seconds, FLOPs and peak memory, from one measurement of the network's sites.

Every site of the network (blocks, their branches, the whole) is measured once at a batch size and kept in a file under the
user's cache, by the mark of weights, shape, batch, device, threads and torch. What a plan skips is learned from a rehearsal
of one sample; what its parts themselves take per site, from a short run with them, also kept. Then

    seconds(plan) = calls x network - sum over sites of (left out x site) + asked x part + steps x step

for one batch, and so for FLOPs. Predictions are for the machine as busy as it was when it was measured.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.record import Record, write_atomic
from ornstein.core.sites import Site
from ornstein.evidence._flops import Flops, Mode
from ornstein.model import Subject, autocast

__all__ = ["Cost", "Profile", "flops", "now", "peak_bytes", "predict", "profile"]

FORMAT, TRIES, SHORT = 1, 7, 10  # of the files; measured calls; steps of the run that measures a part
CACHE = Path.home() / ".cache" / "ornstein" / "profiles"
GRAINS = (("network",), ("stage", "block"), ("branch",), ("attention",))  # each by itself, so that no watch is in another's time


@dataclass(frozen=True)
class Cost:
    """Of one batch. bytes: weights, the peak of what is alive beside them in a call without parts, and what caches kept;
    sites: seconds by site."""

    seconds: float
    flops: float
    bytes: int
    calls: int
    batch: int
    sites: dict[str, float] = field(default_factory=dict)


@dataclass
class Profile:
    """One network at one batch size. sites: 'blocks.0/block' -> (seconds, FLOPs, peak bytes) of one call; parts: text ->
    (seconds, FLOPs) per site asked; step: seconds of a step beside its calls."""

    mark: str
    batch: int
    sites: dict[str, tuple[float, float, int]]
    step: float
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def network(self) -> tuple[float, float, int]:
        return self.sites["/network"]


# ---- measuring


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done; on one thread of the CPU the processor's own, so that what
    other programs do there does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


class _Live(Mode):
    """Bytes of the tensors that are made inside and still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, Tensor) and id(store := tensor.untyped_storage()) not in given and store not in self.seen:
                self.seen.add(store)
                self.now += (size := store.nbytes())
                self.peak = max(self.peak, self.now)
                weakref.finalize(store, self._gone, size)
        return answer

    def _gone(self, size: int) -> None:
        self.now -= size


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that is alive at once of what `work` allocates through torch, in bytes; slow, for measuring."""
    with _Live() as live:
        work()
    return live.peak


def flops(work: Callable[[], Any]) -> int:
    """Of products and convolutions; attention unfused, since fused kernels are not counted on a CPU."""
    with Flops() as counted, sdpa_kernel(SDPBackend.MATH):
        work()
    return counted.total


class _Meter:
    """A plugin that reads what a probe says before and after each site."""

    effects = Effects()

    def __init__(self, before: Callable[[], float], after: Callable[[float], float], grains: Sequence[str]) -> None:
        self.before, self.after, self.grains = before, after, grains
        self.found: dict[str, list[float]] = {}

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain in self.grains]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: dict, run: Any, memory: Any) -> dict:
        began = self.before()
        answer = run(streams)
        self.found.setdefault(f"{site.name}/{site.grain}", []).append(self.after(began))
        return answer


def _meters(device: torch.device) -> list[tuple[_Meter, Any, int]]:
    """(plugin, the context in which it reads, calls) for seconds, FLOPs and bytes at each grain."""

    def enter() -> tuple[int, int]:
        outer, live.peak = live.peak, live.now
        return outer, live.now

    def leave(began: tuple[int, int]) -> float:
        inside = live.peak - began[1]
        live.peak = max(live.peak, began[0])
        return inside

    counter, live = Flops(), _Live()
    clocked = (lambda: now(device), lambda began: now(device) - began)
    counted = (lambda: counter.total, lambda began: counter.total - began)
    probes = ((clocked, None, TRIES), (counted, counter, 1), ((enter, leave), live, 1))
    return [(_Meter(*probe, grains), context, calls) for grains in GRAINS for probe, context, calls in probes]


def _measure(model: Subject, batch: int, prompts: Sequence[Any], dtype: str) -> dict[str, tuple[float, float, int]]:
    device, asked = next(model.backbone.parameters()).device, [prompts[i % len(prompts)] for i in range(batch)]
    found: dict[str, list[float]] = {}
    for meter, context, calls in _meters(device):
        unfused = sdpa_kernel(SDPBackend.MATH) if isinstance(context, Flops) else nullcontext()
        try:
            with unfused, autocast(device, dtype):
                model.rehearse(meter, asked, calls + 2 if calls > 1 else 1, lambda c=context: c or nullcontext())
        except OrnsteinError:  # no such sites, or attention that is not torch's
            continue
        for key, values in meter.found.items():
            found.setdefault(key, []).append(min(values))
    return {k: (v[0], v[1] if len(v) > 1 else 0.0, int(v[2]) if len(v) > 2 else 0) for k, v in found.items()}


def _mark(model: Subject, batch: int, dtype: str) -> str:
    device = next(model.backbone.parameters()).device
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() + platform.machine()
    told = (FORMAT, fingerprint(model.backbone), model.shape, batch, dtype, str(device), chip, platform.node(),
            torch.get_num_threads(), torch.__version__)  # fmt: skip
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def profile(model: Subject, batch: int = 16, prompts: Sequence[Any] = ("",), *, cache: Path | None = CACHE,
            anew: bool = False, dtype: str = "float32") -> Profile:  # fmt: skip
    """The sites of a model's network at this batch size, measured or as they were measured here before.

    prompts: to ask with, in turn. cache: the folder of what was measured (None: nothing is kept); anew: measure again;
    dtype: as in a plan.
    """
    if batch < 1:
        raise OrnsteinError(f"batch={batch} is not a positive whole number", "Give at least 1.")
    mark = _mark(model, batch, dtype)
    file = cache and cache / f"{mark}.json"
    if file and file.is_file() and not anew:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            return Profile(**told | {"sites": {k: tuple(v) for k, v in told["sites"].items()},
                                     "parts": {k: tuple(v) for k, v in told["parts"].items()}})  # fmt: skip
        except (ValueError, TypeError, KeyError):
            pass  # a torn or older file: measured again
    made = Profile(mark, batch, _measure(model, batch, prompts, dtype), 0.0)
    seconds, record = _run(model, Plan(solver="ddim", steps=SHORT, dtype=dtype), batch, prompts)
    if (share := seconds / (_calls(record) * made.network[0])) < 1:  # the machine was busier while the sites were measured
        made.sites = {k: (share * v[0], *v[1:]) for k, v in made.sites.items()}
    made.step = max(0.0, (seconds - _calls(record) * made.network[0]) / SHORT)
    _keep(made, cache)
    return made


def _keep(made: Profile, cache: Path | None) -> None:
    with suppress(OSError):  # a home that cannot be written: measured each time
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(cache / f"{made.mark}.json", (json.dumps(asdict(made)) + "\n").encode())


def _calls(record: Record) -> int:
    return sum(n for branch, n in record.calls.items() if branch != "evaluations")


def _run(model: Subject, plan: Plan, count: int, prompts: Sequence[Any], tries: int = 3) -> tuple[float, Record]:
    """Seconds of one batch, the least of some tries after one to warm up, and the record."""
    asked, found = [prompts[i % len(prompts)] for i in range(count)], []
    device = next(model.backbone.parameters()).device
    for _ in range(tries + 1 if tries > 1 else 1):
        began = now(device)
        record = model.generate(asked, replace(plan, fingerprint=""), batch=count).record
        found.append(now(device) - began)
    return min(found[1:] or found), record


# ---- predicting


def _left(record: Record) -> Counter:
    """Site -> how often it was asked and not computed."""
    return Counter({k: n - record.computed_at[k] for k, n in record.asked_at.items() if n > record.computed_at[k]})


def _without_parts(made: Profile, record: Record, steps: int) -> tuple[float, float, dict[str, float]]:
    """(seconds, FLOPs, seconds by site) of one batch, but for what parts take themselves."""
    calls = _calls(record)
    seconds, count, sites = calls * made.network[0] + steps * made.step, calls * made.network[1], {}
    for key, n in _left(record).items():
        one = made.sites.get(key.partition("#")[0] + ("/attention" if "#" in key else ""), (0.0, 0.0, 0))
        seconds, count = seconds - n * one[0], count - n * one[1]
        sites[key] = -n * one[0]
    return seconds, count, sites


def _part(made: Profile, model: Subject, plan: Plan, prompts: Sequence[Any], cache: Path | None) -> tuple[float, float]:
    """(seconds, FLOPs) that the plan's accelerations take for each site that they are asked at: from a short run."""
    key = " ".join(plan.accelerate)
    if key not in made.parts:
        short = replace(plan, steps=min(plan.steps, SHORT), guidance=())
        plain = replace(short, accelerate=())
        _run(model, short, made.batch, prompts, 1)  # to warm up
        turns = [(_run(model, short, made.batch, prompts, 1), _run(model, plain, made.batch, prompts, 1)) for _ in range(3)]
        share = statistics.median(a[0] / b[0] for a, b in turns)  # taken in turn, so that a busy machine is busy for both
        record = turns[0][0][1]
        whole, _, _ = _without_parts(made, turns[0][1][1], short.steps)
        counted = flops(lambda: _run(model, short, made.batch, prompts, 1))
        bare, few, _ = _without_parts(made, record, short.steps)
        asked = max(1.0, sum(record.asked_of.values()))
        made.parts[key] = ((share * whole - bare) / asked, (counted - few) / asked)
        _keep(made, cache)
    return made.parts[key]


def predict(model: Subject, plan: Plan, batch: int = 16, prompts: Sequence[Any] = ("",), *, record: Record | None = None,
            cache: Path | None = CACHE) -> Cost:  # fmt: skip
    """What one batch of this plan costs here, from the profile and a rehearsal with one sample, or the record of a run
    (used where it was one batch). bytes has the weights in it."""
    subject = model.transformed(replace(plan, compile=False)) if plan.compress else model
    bare = replace(plan, compress=(), compile=False, fingerprint="")  # compiled code is judged by measuring it
    made = profile(subject, batch, prompts, cache=cache, dtype=plan.dtype)
    if record is None or record.facts.get("samples", 1) > batch:
        record = _run(subject, bare, 1, prompts, 1)[1]
    seconds, count, sites = _without_parts(made, record, plan.steps)
    if plan.accelerate:
        took, more = _part(made, subject, bare, prompts, cache)
        asked = sum(record.asked_of.values())
        seconds, count, sites = seconds + asked * took, count + asked * more, sites | {"parts": asked * took}
    weights = sum(t.numel() * t.element_size() for t in subject.backbone.state_dict().values() if isinstance(t, Tensor))
    kept = _kept(record.facts) * batch / max(1, record.facts.get("samples", 1))
    return Cost(seconds, count, weights + made.network[2] + int(kept), _calls(record), batch, sites)


def _kept(facts: Any) -> int:
    """Bytes that caches said they held, wherever among the facts."""
    if not isinstance(facts, dict):
        return 0
    return sum(v if k == "cache_bytes" else _kept(v) for k, v in facts.items())
