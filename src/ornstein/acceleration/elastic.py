"""Elastic DiT: before each block a router says, sample by sample, whether it is computed and how wide its mlp is.

Elastic Diffusion Transformer, Wang, Lai, Chen, et al., 2026, arXiv:2602.13993. For a block F and its tokens x:
h = relu(A (LN(x) (1 + scale(t)) + shift(t))), p = sigmoid(b + mean_tokens w h); x + F(x) where p > 1/2, else x; the mlp
uses a prefix of 1/4, 1/2, 3/4 or all of its channels, by the largest of four logits. Where p lies barely above 1/2 a sample
takes the block's last offset F(x') for up to `uses` evaluations. A router costs N D r multiplications per block, beside
12 N D^2; an offset per block is stored.
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
from ornstein.acceleration.layers.spans import lead, minus, pick, plus, put, trunk
from ornstein.acceleration.layers.width import Masked, importance, slim
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["Elastic", "learn_elastic"]

# budget: the two routers, offsets and how they are learned stand together, so that what is taught is what runs
KIND, WIDTHS = "elastic", (0.25, 0.5, 0.75, 1.0)
NAMES = ("gate.time", "gate.in", "gate.out", "gate.bias", "width.in", "width.out", "width.bias", "order")


@dataclass(frozen=True)
class Elastic:
    """Without routers the middle blocks stand for barely needed ones (p = 1/2): computed at first, later from offsets."""

    routers: str | Path | Artefact = ""  # what learn_elastic found: a file or an Artefact
    share: float = 0.75  # without routers: share of the blocks that is always computed; 1: all
    band: float = 0.015  # offsets serve samples with p in [1/2, 1/2 + band] (the released code's); negative: none
    uses: int = 10  # evaluations that an offset serves (the released code's 10)
    begin: float = 0.5  # share of the run after which offsets serve (the released code's step 15 of 30)
    lesson: Lesson | None = None  # while routers are taught: all is computed, and weighted
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.uses < 0:
            raise OrnsteinError(f"Elastic(share={self.share}, uses={self.uses})", "share is in (0, 1], uses at least 0.")
        object.__setattr__(self, "arrays", learned(self.routers, KIND, NAMES))

    def select(self, sites: Sequence[Site]) -> list[Site]:
        blocks = trunk(sites, "Elastic")
        if self.arrays and {s.count for s in blocks} != {len(self.arrays["gate.bias"])}:
            what = f"these routers are for {len(self.arrays['gate.bias'])} blocks in a row, and the network has {len(blocks)}"
            raise OrnsteinError(what, "Learn them on this network.")
        inside = {s.depth for s in blocks}
        mlps = [s for s in sites if s.grain == "branch" and s.role == "mlp" and s.depth in inside]
        return blocks + (mlps if self.arrays else [])

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Site, clock: Clock, streams: Streams, run: Call, memory: dict) -> Streams:
        if site.grain == "branch":
            return self._mlp(site, streams, run)
        x = lead(streams)
        logit = self._gate(site, clock, x)
        if self.lesson is not None:
            return self._taught(site, streams, run, decide(logit, self.lesson))
        p, known = logit.sigmoid(), memory.get(site.name)
        if known is None or known["shape"] != x.shape:
            known = {"shape": x.shape, "offset": {}, "uses": torch.full((len(x),), self.uses, device=x.device)}
        late = clock.step >= self.begin * clock.steps
        barely = (p >= 0.5) & (p <= 0.5 + self.band)
        served = barely & (known["uses"] < self.uses) if late and known["offset"] else torch.zeros_like(barely)
        on = ~(served | (p < 0.5))  # also where it is not a number
        rows = on.nonzero()[:, 0]
        out = self._answer(streams, run, rows, served, known["offset"])
        if self.band >= 0 and (self.arrays or bool(barely.any())):
            offset = known["offset"]
            fresh = minus(out, streams, site)
            offset = put(offset, rows, pick(fresh, rows)) if offset else fresh
            uses = torch.where(on, 0, known["uses"] + served)
            memory[site.name] = {"shape": x.shape, "offset": offset, "uses": uses}
        note(run, clock, "elastic", memory, {"rows": len(x), "rows_passed_by": len(x) - len(rows)})
        return out

    def _answer(self, streams: Streams, run: Call, rows: Tensor, served: Tensor, offset: Streams) -> Streams:
        """The block for `rows`, its last offset for `served`, the streams as they are for the others."""
        if len(rows) == len(served):
            return run(streams)
        out = streams
        if len(kept := served.nonzero()[:, 0]):
            out = put(out, kept, pick(plus(out, offset), kept))
        return put(out, rows, run(streams, rows)) if len(rows) else out

    def _gate(self, site: Site, clock: Clock, x: Tensor) -> Tensor:
        """The logit of computing this block, float32 [B]."""
        if not self.arrays:
            keep = round(self.share * site.count)
            middle = sorted(range(site.count), key=lambda i: abs(i - (site.count - 1) / 2))[: site.count - keep]
            return torch.full((len(x),), 0.0 if site.index in middle else torch.inf, device=x.device)
        w = {k: v[site.index].to(x.device) for k, v in self.arrays.items()}
        if x.ndim != 3 or x.shape[2] != w["gate.in"].shape[0]:
            raise OrnsteinError(f"the tokens {list(x.shape)} at '{site.name}' do not fit these routers",
                                "Learn them on this network.")  # fmt: skip
        scale, shift = (features(times(clock, len(x))).to(x.device) @ w["gate.time"])[:, None].chunk(2, -1)
        h = F.relu(torch.addcmul(shift, F.layer_norm(x.float(), x.shape[2:]), 1 + scale) @ w["gate.in"])
        return h.mean(1) @ w["gate.out"] + w["gate.bias"]

    def _taught(self, site: Site, streams: Streams, run: Call, gate: Tensor) -> Streams:
        """x + gate (F(x) - x), and what the block cost: gate (attention + mlp width) of 4 D + 2 N and 8 D."""
        out, (_, n, d) = run(streams), lead(streams).shape
        width, whole = self.lesson.costs.pop(), 12 * d + 2 * n
        self.lesson.costs.append(gate * (4 * d + 2 * n + 8 * d * width) / (whole * site.count))
        wide = gate[:, None, None]
        return {k: streams[k] + wide * (v - streams[k]) if k in streams else v for k, v in out.items()}

    def _mlp(self, site: Site, streams: Streams, run: Call) -> Streams:
        """Rows of one width together, each with the first channels in order of importance."""
        x = lead(streams)
        w = {k: v[site.index].to(x.device) for k, v in self.arrays.items() if not k.startswith("gate")}
        logits = F.relu(x.float() @ w["width.in"]).mean(1) @ w["width.out"] + w["width.bias"]
        order = w["order"].long()
        if self.lesson is not None:
            soft = logits.softmax(-1)
            hard = F.one_hot(logits.argmax(-1), len(WIDTHS)).to(soft) - soft.detach() + soft
            each = torch.stack([(order.argsort() < round(f * len(order))).float() for f in WIDTHS])
            self.lesson.costs.append(hard @ torch.tensor(WIDTHS).to(hard))
            with Masked("mlp", site.name, hard @ each.to(hard)):
                return run(streams)
        out, widths = {}, torch.tensor(WIDTHS)[logits.argmax(-1).cpu()]
        for width, rows in by_value(widths):
            keep = order[: round(float(width) * len(order))].cpu()
            part = run(streams, rows) if width == 1 else slim(run, streams, (len(order), 1), keep, rows=rows)
            if rows is None:
                return part
            out = out or {k: v.new_zeros(len(x), *v.shape[1:]) for k, v in part.items()}
            out = put(out, rows.to(x.device), part)
        return out


def learn_elastic(denoiser: Any, draw: Callable[[torch.Generator, int], tuple], settings: Fit = Fit(), rank: int = 4) -> Artefact:
    """Routers for a frozen denoiser. draw(source, batch) -> (x_0 [B, ...], cond); rank: r, hidden numbers of a router."""
    source = torch.Generator().manual_seed(settings.seed)
    order = importance(denoiser, draw(source, 64), source)
    depth, width = len(order), denoiser.backbone.blocks[0].mlp[0].in_features

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=source) * std

    arrays = {"gate.time": torch.zeros(depth, FEATURES, 2 * width), "gate.in": normal(depth, width, rank, std=width**-0.5),
              "gate.out": normal(depth, rank, std=1e-3), "gate.bias": torch.full((depth,), math.log(0.7 / 0.3)),
              "width.in": normal(depth, width, rank, std=width**-0.5), "width.out": normal(depth, rank, 4, std=1e-3),
              "width.bias": torch.tensor([0.0, 0.0, 0.0, 2.0]).repeat(depth, 1), "order": order.to(torch.int16)}  # fmt: skip
    lesson = Lesson()
    told = fit(denoiser, Elastic(Artefact(KIND, arrays), lesson=lesson), arrays, lesson, draw, settings)
    made = {"target": settings.target, "updates": settings.steps, "error": told[-1][0], "cost": told[-1][1]}
    return Artefact(KIND, arrays, made, describe(denoiser))
