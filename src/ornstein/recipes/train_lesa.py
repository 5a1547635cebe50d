"""Learn LESA's predictor for a frozen denoiser: a ridge regression on the features of its own trajectories, in two stages.

Cai et al., 2026, arXiv:2602.20497. Stage 1 follows the full trajectory and fits each expert's coefficients to what the
network truly says at the evaluations that will be left out; stage 2 follows the trajectory of the forecasts, as sampling
will, and fits anew. The publication trains a KAN by gradient descent with an L1 loss; the coefficients of fixed hats have a
closed form in the squared loss: C = (sum X X^T + ridge)^-1 sum X y with X_jm = phi_m(r) S_j, y = h - h_0 - r S_0. Every
evaluation is computed while training; the regression itself costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.acceleration.layers.forecast import place, weighted
from ornstein.acceleration.layers.spans import lead
from ornstein.acceleration.lesa import LESA, hats, slopes
from ornstein.core import catalog
from ornstein.core.artefact import Artefact, describe
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import attach

__all__ = ["train_lesa", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What the predictor is for, and how much is recorded."""

    interval: int = 3  # N
    steps: int = 40
    solver: str = "ddim"
    rule: str = "uniform"  # grid of the times
    samples: int = 16  # trajectories of each stage
    history: int = 4  # K: features that are kept (the paper: 4 to 8)
    knots: int = 3  # M: hats of each univariate function
    experts: int = 3  # by thirds of the grid (the paper: high, middle and low noise)
    rounds: int = 1  # of stage 2; 0: stage 1 alone
    ridge: float = 1e-3  # times the mean diagonal of sum X X^T
    seed: int = 12345


class _Recorder:
    """LESA with every evaluation computed: collects the normal equations of each expert. closed: hand on the forecast."""

    def __init__(self, part: LESA, sizes: tuple[int, int, int], bounds: tuple[float, ...], closed: bool) -> None:
        self.part, self.sizes, self.bounds, self.closed, self.effects = part, sizes, bounds, closed, LESA.effects
        experts, n = sizes[0], sizes[1] * sizes[2]
        self.square, self.target = torch.zeros(experts, n, n).double(), torch.zeros(experts, n).double()
        self.select, self.start = part.select, part.start

    def around(self, site: Any, clock: Any, streams: Any, run: Any, memory: dict) -> Any:
        if site.name == memory.setdefault("first", site.name):
            self.part.begin(lead(streams), memory)
        out = run(streams)
        if site.index < site.count - 1:
            return out
        if memory["due"]:
            self.part.keep(site, clock, out, memory)
            return out
        self._record(lead(out), clock, memory["tables"][site.stage])
        return self.part.foretell(site, clock, streams, memory) if self.closed else out

    def _record(self, out: Tensor, clock: Any, table: dict) -> None:
        name = next(k for k, v in table["values"][0].items() if isinstance(v, Tensor))
        t, values = place(clock, out), [v[name] for v in table["values"]]
        r, mix = slopes(t, table["at"])
        lines = torch.stack([weighted(mix[:, j].unbind(1), values).flatten(1) for j in range(self.sizes[1])], 1).double()
        y = (out - values[0]).flatten(1).double() - r[:, None] * lines[:, 0]
        phi = hats(r, self.sizes[2])
        inner, right = torch.einsum("bjd,bkd->bjk", lines, lines), torch.einsum("bjd,bd->bj", lines, y)
        square = torch.einsum("bjk,bm,bn->bjmkn", inner, phi, phi).flatten(1, 2).flatten(2)
        expert = (t[:, None] < torch.tensor(self.bounds, dtype=t.dtype)).sum(1)
        self.square.index_add_(0, expert, square)
        self.target.index_add_(0, expert, torch.einsum("bj,bm->bjm", right, phi).flatten(1))

    def solve(self, ridge: float) -> Tensor:
        """C [experts, K - 1, M]; 0 for an expert that saw nothing."""
        scale = self.square.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        eye = torch.eye(self.square.shape[1]).double()
        return torch.linalg.solve(self.square + ridge * scale[:, None, None] * eye, self.target).unflatten(1, self.sizes[1:])


def train_lesa(denoiser: Any, shape: Sequence[int], cond: Callable[[torch.Generator, int], Any] | None = None,
               recipe: Recipe = Recipe()) -> Artefact:  # fmt: skip
    """The artefact 'lesa'. shape: of one sample, [C, H, W]; cond(source, batch): conditions at random, or None."""
    s, net, inner = recipe, None, denoiser
    if s.history < 2 or min(s.knots, s.experts, s.samples) < 1 or s.interval < 2:
        raise OrnsteinError(f"{s}", "history and interval are at least 2; knots, experts and samples at least 1.")
    while net is None and inner is not None:
        net, inner = getattr(inner, "backbone", None), getattr(inner, "denoiser", None)
    if not isinstance(net, torch.nn.Module):
        raise OrnsteinError("this denoiser has no network to put a cache on", "Give a Denoiser with a backbone.")
    times, sizes = grid(denoiser.process, s.steps, s.rule), (s.experts, s.history - 1, s.knots)
    bounds = tuple(float(times[round(s.steps * k / s.experts)]) for k in range(1, s.experts))
    source, solver = torch.Generator().manual_seed(s.seed), catalog.build("solvers", s.solver)
    made = {"bounds": list(bounds), "interval": s.interval, "solver": s.solver, "steps": s.steps}
    found = Artefact("lesa", {"weights": torch.zeros(sizes)}, made, describe(denoiser, s.rule, shape))
    for stage in range(1 + s.rounds):
        recorder = _Recorder(LESA(s.interval, found), sizes, bounds, closed=stage > 0)
        detach = attach(net, recorder)
        try:
            sample(denoiser, (s.samples, *shape), solver, s.steps, cond=cond and cond(source, s.samples), seed=s.seed + stage,
                   rule=s.rule)  # fmt: skip
        finally:
            detach()
        found = replace(found, arrays={"weights": recorder.solve(s.ridge)})
    return found
