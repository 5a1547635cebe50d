"""Hugging Face diffusers at the seam: its networks as denoisers, its pipelines with our solvers and plugins.

    denoiser(net, scheduler)                      a transformer or U-Net as an ornstein denoiser
    pipe.scheduler = OrnsteinScheduler.from_scheduler(pipe.scheduler, "dpmpp2m")
    detach = accelerate(pipe, plugins)            every later call of the pipeline runs with the plugins
    with run(pipe, plugins) as record: pipe(...)  the calls inside do
    load(pipe).generate(prompts, plan)            as a plan says; so `bench` and `tune` measure pipelines as they do models

A schedule of betas becomes the variance-preserving process through its points, a flow scheduler the linear flow.
Objects of diffusers are known by what they have (`config`, `alphas_cumprod`, `sigmas`): nothing of it is imported here.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ornstein import __version__
from ornstein.bridges.layers.drawing import Decoder, Drawing, asked, default_steps, opened
from ornstein.bridges.layers.guided import PipelineGuidance
from ornstein.bridges.layers.interval import CONDITIONAL_FIRST, OwnGuidance
from ornstein.bridges.layers.pipeline import SEATS, Accelerated, accelerate, networks, run
from ornstein.bridges.layers.scheduler import OrnsteinScheduler
from ornstein.bridges.layers.terms import SchedulerProcess, Terms
from ornstein.core import catalog
from ornstein.core.catalog import OWN
from ornstein.core.denoiser import Denoiser
from ornstein.core.effects import order
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.plan import Plan, fingerprint
from ornstein.core.process import Process
from ornstein.model import Generated, Subject, autocast, listed, parts_of
from ornstein.usual import usual

__all__ = ["SEATS", "Accelerated", "BridgedPipeline", "OrnsteinScheduler", "SchedulerProcess", "accelerate", "denoiser",
           "load", "networks", "run"]  # fmt: skip


@cache
def _arguments(kind: type) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@dataclass(frozen=True)
class Network:
    """A foreign network as a backbone: model(x, t, **cond, **shared).sample without learned variances."""

    model: nn.Module
    shared: Mapping[str, Any] = field(default_factory=dict)  # arguments that are not per sample: position ids, sizes

    def __post_init__(self) -> None:
        self._check(self.shared)

    def _check(self, names: Mapping[str, Any]) -> tuple[str, ...]:
        known = _arguments(type(self.model))
        for name in names:
            if name not in known:
                raise unknown(f"argument of {type(self.model).__name__}", name, known)
        return known

    def __call__(self, x: Tensor, t: Tensor, cond: Mapping[str, Any] | None = None, taps: Sequence[str] = ()) -> Tensor:
        if taps:
            raise OrnsteinError("a foreign network has no taps", "Attach a plugin that reads at its sites.")
        known, weight = self._check(cond or {}), next(self.model.parameters(), x)
        named = {known[0]: x.to(weight.dtype), "timestep": t, **self.shared, **(cond or {})}
        out = self.model(**named, return_dict=False)[0]
        channel = 2 if x.ndim == 5 and out.shape[1] == x.shape[1] and out.shape[2] == 2 * x.shape[2] else 1
        if out.shape != x.shape and out.shape[channel] == 2 * x.shape[channel]:
            out = out.narrow(channel, 0, x.shape[channel])  # the rest is a learned variance
        if out.shape != x.shape:
            raise OrnsteinError(f"{type(self.model).__name__} answers {tuple(out.shape)} for {tuple(x.shape)}",
                                "Give a denoising network; conditions joined to x are not bridged.")  # fmt: skip
        return out


def denoiser(model: nn.Module, scheduler: Any, *, shared: Mapping[str, Any] | None = None,
             null: Mapping[str, Any] | Callable[[Any, int], Any] | None = None) -> Denoiser:  # fmt: skip
    """A diffusers network as a denoiser; `cond` goes to it by the names of its own arguments.

    scheduler: the one it was trained with (or a Process); shared: arguments that are not per sample (img_ids,
    img_shapes); null: the unconditional condition, as one row per name ([1, ...]) or a function (cond, batch) -> cond.
    """
    terms = Terms.of(scheduler)
    if isinstance(null, Mapping):
        rows = dict(null)
        null = lambda cond, batch: (cond or {}) | {k: v.expand(batch, *v.shape[1:]) for k, v in rows.items()}  # noqa: E731
    return Denoiser(Network(model, dict(shared or {})), terms.process, terms.predicts, terms.told(model), null=null)


@dataclass(frozen=True)
class BridgedPipeline(Subject):
    """A diffusers pipeline with ornstein's handles, and as something that plans are run on: `generate`, `bench`, `tune`.

    call: arguments of every call, such as {'guidance_scale': 5, 'height': 512}; the prompts, steps, seeds and the solver come
    from elsewhere. The pipeline keeps its own loop and guidance, and is left as it was.
    """

    pipe: Any
    call: Mapping[str, Any] = field(default_factory=dict)
    _ready: dict = field(default_factory=dict, init=False, repr=False, compare=False)
    _network: nn.Module | None = field(default=None, repr=False, compare=False)  # in the place of the pipeline's own

    seats, foreign = SEATS, True

    @property
    def network(self) -> nn.Module:
        return next(iter(networks(self.pipe).values())) if self._network is None else self._network

    backbone = network

    @property
    def name(self) -> str:
        """Of the folder or the repository that it is from, else of its kind."""
        return Path(str(getattr(self.pipe.config, "_name_or_path", "") or type(self.pipe).__name__)).name

    @property
    def process(self) -> Process:
        return Terms.of(self.pipe.scheduler).process

    @cached_property
    def _seen(self) -> tuple[tuple[int, ...], bool]:
        """(shape, whether it guides): draws one picture in two steps to see."""
        watch, drawing = self._own({}, 1), Drawing.of(self.pipe, self.call, "ddim", OWN)
        with run(drawing.pipe, watch):
            drawing(["0"], 2, [0])
        return tuple(drawing.ends[0].shape[1:]), watch.branches > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture where the pipeline's steps end: [C, H, W], or packed [tokens, C]."""
        return self._seen[0]

    def _own(self, settings: Mapping[str, Any], rows: int = 0) -> OwnGuidance:
        return OwnGuidance(self.process, **settings, first=type(self.pipe).__name__ in CONDITIONAL_FIRST, rows=rows)

    def _guidance(self, plan: Plan) -> list[OwnGuidance]:
        """Of a plan: 'own', or 'own:interval=(0.1,0.9)'."""
        read = [catalog.parse(str(part)) for part in plan.guidance]
        if wrong := [str(part) for part, (name, _) in zip(plan.guidance, read) if name != OWN]:
            raise OrnsteinError(f"{', '.join(wrong)}: a pipeline guides by itself", "Say it in its arguments, such as "
                                "asking(guidance_scale=5); 'own:interval=(0.1,0.9)' limits it to an interval.")  # fmt: skip
        for _, settings in read:
            for key in settings:
                if key != "interval":
                    raise unknown("setting of a pipeline's own guidance", key, ["interval"])
        limited = [settings for _, settings in read if settings]
        if limited and not self._seen[1]:
            raise OrnsteinError(f"{type(self.pipe).__name__} has no guidance to limit, as it is called",
                                "Give it a guidance_scale above 1, or leave the interval out.")  # fmt: skip
        return [self._own(settings) for settings in limited]

    @property
    def codec(self) -> Decoder:
        return Decoder(self.pipe, self.call)

    @property
    def encoder(self) -> Any:
        """What reads a prompt; None where the pipeline is asked for nothing."""
        known = asked(self.pipe, ["0"], self.call)
        return self.pipe if {"prompt", "class_labels"} & set(known) else None

    def denoiser(self, *, shared: Mapping[str, Any] | None = None, null: Any = None) -> Denoiser:
        """The pipeline's network as a denoiser for ornstein's own loop: see `denoiser`."""
        return denoiser(self.network, self.pipe.scheduler, shared=shared, null=null)

    def guidance(self, rules: Any, null: Mapping[str, Tensor] | None = None) -> PipelineGuidance:
        """Guidance of ornstein as a plugin, to attach before any other: `attach([guidance('cfg:scale=5', null), ...])`.

        null: the unconditional condition by the network's own names, one row each, such as {'encoder_hidden_states': ...}.
        The pipeline is then called with its own guidance off.
        """
        return PipelineGuidance.of(self.pipe.scheduler, rules, null)

    def attach(self, plugins: Any) -> Accelerated:
        """Plugins for every later call of the pipeline: see `accelerate`."""
        return accelerate(self.pipe, plugins)

    def scheduler(self, solver: Any = "dpmpp2m", grid: str | None = None) -> OrnsteinScheduler:
        """Give the pipeline a solver of ornstein, and a grid; hands back the scheduler that it now has."""
        self.pipe.scheduler = OrnsteinScheduler.from_scheduler(self.pipe.scheduler, solver, grid)
        return self.pipe.scheduler

    def asking(self, **call: Any) -> BridgedPipeline:
        """This pipeline with other arguments of every call."""
        asked(self.pipe, ["0"], call)
        return replace(self, call=dict(call))

    # ---- under plans

    def plan(self, **changes: Any) -> Plan:
        """The pipeline's own number of steps, with the usual solver and grid; with changes."""
        told = {"steps": default_steps(self.pipe)} | {k: v for k, v in changes.items() if v is not None}
        if "solver" not in told:
            solver, grid = usual(self.process, told["steps"], self._seen[1])
            told = {"grid": grid} | told | {"solver": solver}
        told = {"guidance": (OWN,) if self._seen[1] else ()} | told
        return Plan(**({"model": self.name, "fingerprint": fingerprint(self.backbone)} | told))

    def shipped(self) -> Plan:
        """The pipeline as it is, with its own scheduler."""
        return self.plan(solver=OWN, grid=OWN)

    def generate(self, prompts: str | Sequence[str], plan: Plan | None = None, *, steps: int | None = None,
                 solver: str | None = None, guidance: str | Sequence[str] | None = None,
                 accelerate: str | Sequence[str] | None = None, grid: str | None = None, seed: int = 0,
                 progress: Callable[[int, int], None] | None = None, batch: int = 8, force: bool = False,
                 **others: Any) -> Generated:  # fmt: skip
        """Pictures for prompts by the pipeline itself, as the plan says. Picture i depends on (seed, i) alone.

        steps, solver, accelerate, grid change the plan; solver='own' and grid='own' leave the pipeline's. Guidance is the
        pipeline's own: say guidance_scale in `call`; a plan can limit it, guidance='own:interval=(0.1,0.9)' in flow times.
        progress(done, total): called after each step. force: run a plan of another model or use.
        """
        if given := [name for name, value in others.items() if value not in (None, ())]:
            raise OrnsteinError(f"{', '.join(given)}: a pipeline of diffusers has its own",
                                "Say it in its arguments: --call guidance_scale=5, or asking(guidance_scale=5).")  # fmt: skip
        prompts = self._asked(prompts, batch)
        changes = {"steps": steps, "solver": solver, "guidance": guidance, "accelerate": accelerate, "grid": grid}
        plan, forced = self._planned(plan, listed(changes), None, force)
        own = self._guidance(plan)
        plugins = order([*own, *[catalog.build("acceleration", a) for a in plan.accelerate]])
        network = self._transformed(plan, plugins) if plan.compress or plan.compile else self._network
        drawing = Drawing.of(self.pipe, self.call, plan.solver, plan.grid, network)
        total = plan.steps * -(-len(prompts) // batch)
        with autocast(next(self.backbone.parameters()).device, plan.dtype), run(drawing.pipe, plugins) as record:
            for first in range(0, len(prompts), batch):
                some, done = prompts[first : first + batch], plan.steps * (first // batch)
                tell = progress and (lambda step, done=done: progress(done + step, total))
                for part in own:
                    part.rows = len(some)
                drawing(some, plan.steps, _seeds(seed, range(first, first + len(some))), tell)
        record.facts |= {"ornstein": __version__, "model": self.name, "seed": seed, "samples": len(prompts),
                         **parts_of(plan)} | ({"forced": forced} if forced else {})  # fmt: skip
        return Generated(np.concatenate(drawing.pixels), torch.cat(drawing.ends), prompts, record, plan)

    def use(self, plan: Plan, size: tuple[int, int] | None = None) -> dict[str, str]:
        """What the figures of a plan hold for: the pipeline's arguments count as its guidance."""
        told = ", ".join(f"{k}={v}" for k, v in sorted(self.call.items()))
        return super().use(plan, size) | {"guidance": ", ".join([f"{type(self.pipe).__name__}({told})", *plan.guidance])}

    def transformed(self, plan: Plan, plugins: Sequence[Any] = ()) -> BridgedPipeline:
        """This pipeline with its network as the plan runs it: compressed, compiled."""
        return replace(self, _network=self._transformed(plan, plugins))

    def rehearse(self, plugin: Any, prompts: Sequence[Any], calls: int, within: Callable[[], Any] = nullcontext) -> None:
        """Draw for all prompts at once in so many steps, under a plugin that measures."""
        drawing = Drawing.of(self.pipe, self.call, "ddim", OWN, self._network)
        with run(drawing.pipe, plugin), within():
            drawing(prompts, calls, _seeds(0, range(len(prompts))))


def _seeds(seed: int, ids: Sequence[int]) -> list[int]:
    """One of each picture, by (seed, id) alone."""
    return [int.from_bytes(hashlib.sha256(f"{seed}/{i}".encode()).digest()[:7], "big") for i in ids]


def load(pipe: Any, device: str | torch.device = "cpu") -> BridgedPipeline:
    """A pipeline made ready, or the folder of one (no file is fetched), which goes to the device; anything else is refused."""
    pipe = opened(Path(pipe)).to(device) if isinstance(pipe, (str, Path)) else pipe
    if not (callable(pipe) and hasattr(pipe, "scheduler")):
        raise OrnsteinError(f"a {type(pipe).__name__} is no pipeline", "Give a pipeline, a model's name or a file.")
    networks(pipe)
    return BridgedPipeline(pipe)
