"""Guidance of ornstein in a pipeline's own loop: a plugin of the whole network that asks it again on other branches.

The pipeline is called with its own guidance off (guidance_scale=1, or 0 where that means off); what its network is asked
is the branch 'cond', and what a guidance makes of it is what the pipeline gets. Costs what the guidance costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ornstein.bridges.layers.pipeline import pipe_of_call
from ornstein.bridges.layers.terms import Terms
from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import guide
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process
from ornstein.core.seam import Call, Streams, calling
from ornstein.core.sites import Site

__all__ = ["PipelineGuidance"]


@dataclass
class _Inside:
    """The network call under way, as a denoiser: asked again with other conditions, at another branch of the clock."""

    terms: Terms
    call: Call
    streams: Streams
    name: str  # the stream that is x
    null: Mapping[str, Tensor]
    rest: Tensor | None = None  # what the first answer has beside the prediction: a learned variance

    @property
    def process(self) -> Process:
        return self.terms.process

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Clock | None = None, taps: Sequence = ()) -> Prediction:
        call, clock = self.call, clock or self.call.clock
        given = {**call.bound, **self.streams, **(cond or {})}
        streams = {k: given.pop(k) for k in self.streams} | {self.name: x.to(self.streams[self.name].dtype)}
        again = Call(call.site, clock, call.run, call.plugins, given, call.inner, call.network, call.depth)
        first = clock.branch == call.clock.branch  # the pipeline's own call, which is counted already
        with nullcontext() if first else calling(clock):
            out = again(streams)["out"]
        if self.rest is None and out.shape[1] == 2 * x.shape[1]:
            self.rest = out[:, x.shape[1] :]
        value = out if out.shape == x.shape else out[:, : x.shape[1]]
        return Prediction(x, self.process.at(t, x), self.terms.predicts, value.to(x.dtype))

    def unconditional(self, cond: Any, batch: int) -> dict[str, Tensor]:
        if not self.null:
            raise OrnsteinError("this guidance asks for a condition that says nothing",
                                "Give null={argument of the network: its value of one row}.")  # fmt: skip
        return dict(cond) | {k: v.expand(batch, *v.shape[1:]) for k, v in self.null.items()}


@dataclass(frozen=True, eq=False)
class PipelineGuidance:
    """rules: parts of guidance/, the last outermost; null: the unconditional condition by the names of the network's own
    arguments, one row each ([1, ...]); terms: of the pipeline's scheduler."""

    rules: tuple[Any, ...]
    terms: Terms
    null: Mapping[str, Tensor] = field(default_factory=dict)

    effects = Effects.of(replaces="prediction")

    @classmethod
    def of(cls, scheduler: Any, rules: Any, null: Mapping[str, Tensor] | None = None) -> PipelineGuidance:
        """rules: 'cfg:scale=5', a part, or several."""
        several = rules if isinstance(rules, (list, tuple)) else [rules]
        built = tuple(catalog.build("guidance", r) for r in several)
        if not built:
            raise OrnsteinError("no guidance was given", "Name one: 'cfg:scale=3'.")
        for name, value in (null or {}).items():
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != 1:
                raise OrnsteinError(f"null['{name}'] is not one row", "Give a tensor [1, ...].")
        return cls(built, Terms.of(scheduler), dict(null or {}))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        return [s for s in sites if s.grain == "network"]

    def start(self) -> None:
        return None

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: None) -> Streams:
        twice = clock.evaluation and clock.branch.endswith(f"call{clock.evaluation}")
        if twice or getattr(pipe_of_call(), "do_classifier_free_guidance", False):
            raise OrnsteinError("the pipeline guides by itself, and would be guided twice",
                                "Call it with its own guidance off: guidance_scale=1 (true_cfg_scale=1).")  # fmt: skip
        given = {**run.bound, **streams}
        name = next(n for n in given if n in ("hidden_states", "sample", "x"))
        x = given.pop(name)
        for key in self.null:
            if key not in given:
                raise unknown("argument that the pipeline gives its network", key, given)
        inside = _Inside(self.terms, run, {**streams, name: x}, name, self.null)
        cond = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.ndim and len(v) == len(x)}
        t = torch.as_tensor(clock.t, dtype=torch.float64).cpu()
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        said = guide(inside, *self.rules)(wide, t, cond, clock).get(self.terms.predicts).to(x.dtype)
        return {"out": said if inside.rest is None else torch.cat([said, inside.rest], 1)}
