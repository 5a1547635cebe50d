"""DyDiT: the width of every block follows the time, and tokens that need no mlp get none.

DyDiT++: Diffusion Transformers with Timestep and Spatial Dynamics for Efficient Visual Generation, Zhao, Han, Tang, et al.,
2025, arXiv:2504.06803. Heads and groups of mlp channels are on where sigmoid(R(t)) > 1/2, the first always (timestep-wise dynamic
width); a token gets x + gate mlp(.) where sigmoid(S(x)) > 1/2, else x (spatial-wise dynamic token). Taught with noise on
the logits, a straight-through gradient and (F_dynamic / F - lambda)^2. Widths depend on t alone, so a batch at one time is
dense; tokens of all samples go through the mlp as one list. Slim weights are cut when a width changes, and held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.layers.ledger import note
from ornstein.acceleration.layers.router import FEATURES, Fit, Lesson, by_value, decide, features, fit, learned, times
from ornstein.acceleration.layers.spans import lead, put
from ornstein.acceleration.layers.width import Layout, Masked, Slices, importance, shared, slim
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["DyDiT", "learn_dydit"]

# budget: widths, tokens and how both are learned stand together, so that what is taught is what runs
KIND, TAU = "dydit", 5.0  # of the straight-through gradient (the paper's)
NAMES = ("attention.time", "attention.bias", "mlp.time", "mlp.bias", "tokens.in", "tokens.out", "tokens.bias", "order")


@dataclass(frozen=True)
class DyDiT:
    """The first evaluation of a shape is whole: it shows how many heads and channels there are."""

    routers: str | Path | Artefact = ""  # what learn_dydit found: a file or an Artefact
    width: float = 0.75  # without routers: share of heads and groups, the first ones, that stay on below `high`; 1: all
    high: float = 0.5  # without routers: time above which all is on
    groups: int = 4  # without routers: parts into which the channels of an mlp are split
    lesson: Lesson | None = None  # while routers are taught: all is computed, and weighted
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if not 0 < self.width <= 1 or self.groups < 1:
            raise OrnsteinError(f"DyDiT(width={self.width}, groups={self.groups})", "width is in (0, 1], groups at least 1.")
        object.__setattr__(self, "arrays", learned(self.routers, KIND, NAMES))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        if any(s.grain == "stage" for s in sites):
            raise OrnsteinError("DyDiT does not fit a U-Net: its blocks are not attention and mlp over tokens", "Use deepcache.")
        found = [s for s in sites if s.grain == "branch" and s.role in ("attention", "mlp")]
        if self.arrays and {s.count for s in found} != {len(self.arrays["mlp.bias"])}:
            raise OrnsteinError(f"these routers are for {len(self.arrays['mlp.bias'])} blocks in a row, not for this network",
                                "Learn them on this network.")  # fmt: skip
        return found

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        x = lead(streams)
        if self.lesson is not None:
            return self._taught(site, clock, streams, run)
        if self.width == 1 and not self.arrays:
            return run(streams)
        known = memory.get(site.name)
        if known is None or known["shape"] != x.shape:
            with Masked(site.role, site.name) as look:
                out = run(streams)
            memory[site.name] = {"shape": x.shape, "layout": look.found(), "slices": None}
            return out
        before, out, masks = known["slices"], {}, self._masks(site, times(clock, len(x)), known["layout"])
        for mask, rows in by_value(masks):
            part = self._tokens(site, streams, run, mask, known, rows)
            if rows is None:
                out = part
                break
            out = out or {k: v.new_zeros(len(x), *v.shape[1:]) for k, v in part.items()}
            out = put(out, rows.to(x.device), part)
        if known["slices"] is not before:
            note(run, clock, "dydit", [m["slices"].tensors() for m in memory.values() if m["slices"]], {"cuts": 1})
        return out

    def _masks(self, site: Site, t: Tensor, layout: Layout) -> Tensor:
        """Which heads, or groups of channels, are on at these times: bool [B, H] on the CPU."""
        if not self.arrays:
            parts = layout[0] if site.role == "attention" else self.groups
            on = torch.arange(parts) < math.ceil(self.width * parts)
            return on | (t > self.high)[:, None]
        return self._logits(site, t) > 0

    def _logits(self, site: Site, t: Tensor) -> Tensor:
        logit = features(t) @ self.arrays[f"{site.role}.time"][site.index] + self.arrays[f"{site.role}.bias"][site.index]
        return torch.cat([torch.full((len(t), 1), torch.inf), logit], 1)  # the first is always on

    def _slim(self, site: Site, streams: Streams, run: Call, mask: Tensor, known: dict, rows: Tensor | None) -> Streams:
        if mask.all():
            return run(streams, rows)
        total, keep = known["layout"][0], mask.nonzero()[:, 0]
        if total % len(mask):
            raise OrnsteinError(f"the {total} heads or channels at '{site.name}' do not fall into {len(mask)} groups",
                                "Choose another number of groups, or learn routers on this network.")  # fmt: skip
        if site.role == "mlp":
            keep = torch.arange(total).view(len(mask), -1)[keep].flatten()
            keep = self.arrays["order"][site.index].long()[keep] if self.arrays else keep
        if known["slices"] is None or not known["slices"].fits(keep):
            known["slices"] = Slices(keep)
        return slim(run, streams, known["layout"], keep, known["slices"], rows)

    def _tokens(self, site: Site, streams: Streams, run: Call, mask: Tensor, known: dict, rows: Tensor | None) -> Streams:
        """The branch with these heads or groups; of an mlp only the tokens that are chosen, as one list of all samples."""
        if site.role != "mlp" or not self.arrays or self.arrays["tokens.in"].numel() == 0:
            return self._slim(site, streams, run, mask, known, rows)
        x = lead(streams) if rows is None else lead(streams)[rows.to(lead(streams).device)]
        on = self._tokens_on(site, x) > 0
        name = next(k for k, v in streams.items() if isinstance(v, Tensor))
        of_all = on.float().mean().item() * len(x) / len(lead(streams))
        out = x.new_zeros(x.shape)
        if of_all:
            part = lead(self._slim(site, {name: x[on][None]}, shared(run, of_all), mask, known, None))
            out[on] = part[0].to(out.dtype)
        return {"out": out}

    def _tokens_on(self, site: Site, x: Tensor) -> Tensor:
        w = {k: self.arrays[k][site.index].to(x.device) for k in NAMES if k.startswith("tokens")}
        return F.relu(x.float() @ w["tokens.in"]) @ w["tokens.out"] + w["tokens.bias"]

    def _taught(self, site: Site, clock: Clock, streams: Streams, run: Call) -> Streams:
        """Masks instead of slim weights; the cost 4 D + 2 N of attention and 8 D of the mlp, in blocks."""
        x = lead(streams)
        mask = decide(self._logits(site, times(clock, len(x))), self.lesson, TAU)
        whole, share = (12 * x.shape[2] + 2 * x.shape[1]) * site.count, mask.mean(1)
        if site.role == "attention":
            self.lesson.costs.append(share * (4 * x.shape[2] + 2 * x.shape[1]) / whole)
        else:
            part = len(self.arrays["order"][site.index]) // mask.shape[1]
            mask = mask.repeat_interleave(part, 1)[:, self.arrays["order"][site.index].long().argsort()]
        with Masked(site.role, site.name, mask):
            out = run(streams)
        if site.role == "mlp":
            on = torch.ones_like(x[..., 0])
            if self.arrays["tokens.in"].numel():
                on = decide(self._tokens_on(site, x), self.lesson, TAU)
            self.lesson.costs.append(share * on.mean(1) * 8 * x.shape[2] / whole)
            out = {k: v * on[..., None] for k, v in out.items()}
        return out


def learn_dydit(denoiser: Any, draw: Callable[[torch.Generator, int], tuple], settings: Fit = Fit(), tokens: bool = True,
                groups: int = 8) -> Artefact:  # fmt: skip
    """Routers for a frozen denoiser. draw(source, batch) -> (x_0 [B, ...], cond); tokens: choose tokens too; groups: parts
    of an mlp's channels, by importance."""
    source = torch.Generator().manual_seed(settings.seed)
    order = importance(denoiser, draw(source, 64), source)
    net, depth = denoiser.backbone, len(order)
    rank = max(4, net.width // 16) if tokens else 0
    arrays = {"order": order.to(torch.int16), "tokens.bias": torch.full((depth, 1), 3.0)}
    for role, parts in (("attention", net.heads), ("mlp", groups)):
        arrays |= {f"{role}.time": torch.zeros(depth, FEATURES, parts - 1), f"{role}.bias": torch.full((depth, parts - 1), 2.0)}
    arrays |= {"tokens.in": torch.randn(depth, net.width, rank, generator=source) * net.width**-0.5,
               "tokens.out": torch.randn(depth, rank, generator=source) * 1e-3}  # fmt: skip
    lesson = Lesson(torch.Generator().manual_seed(settings.seed + 1))
    told = fit(denoiser, DyDiT(Artefact(KIND, arrays), lesson=lesson), arrays, lesson, draw, settings)
    made = {"target": settings.target, "updates": settings.steps, "error": told[-1][0], "cost": told[-1][1]}
    return Artefact(KIND, arrays, made, describe(denoiser))
