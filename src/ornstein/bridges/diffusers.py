"""Hugging Face diffusers at the seam: its networks as denoisers, its pipelines with our solvers and plugins.

    denoiser(net, scheduler)                      a transformer or U-Net as an ornstein denoiser
    pipe.scheduler = OrnsteinScheduler.from_scheduler(pipe.scheduler, "dpmpp2m")
    detach = accelerate(pipe, plugins)            every later call of the pipeline runs with the plugins
    with run(pipe, plugins) as record: pipe(...)  the calls inside do

A schedule of betas becomes the variance-preserving process through its points, a flow scheduler the linear flow.
Objects of diffusers are known by what they have (`config`, `alphas_cumprod`, `sigmas`): nothing of it is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn

from ornstein.bridges.layers.guided import PipelineGuidance
from ornstein.bridges.layers.pipeline import SEATS, Accelerated, accelerate, networks, run
from ornstein.bridges.layers.scheduler import OrnsteinScheduler
from ornstein.bridges.layers.terms import SchedulerProcess, Terms
from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError, unknown

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
class BridgedPipeline:
    """A diffusers pipeline with ornstein's three handles. The pipeline itself generates: `bridged.pipe(...)`."""

    pipe: Any

    @property
    def network(self) -> nn.Module:
        return next(iter(networks(self.pipe).values()))

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

    def scheduler(self, solver: Any = "dpmpp2m") -> OrnsteinScheduler:
        """Give the pipeline a solver of ornstein; hands back the scheduler that it now has."""
        self.pipe.scheduler = OrnsteinScheduler.from_scheduler(self.pipe.scheduler, solver)
        return self.pipe.scheduler


def load(pipe: Any) -> BridgedPipeline:
    """A pipeline made ready; anything else is refused. No file is read and nothing is fetched."""
    if not (callable(pipe) and hasattr(pipe, "scheduler")):
        raise OrnsteinError(f"a {type(pipe).__name__} is no pipeline", "Give a pipeline, a model's name or a file.")
    networks(pipe)
    return BridgedPipeline(pipe)
