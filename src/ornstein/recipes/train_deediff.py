"""Learn DeeDiff's exits and uncertainties for a frozen denoiser, from states of its own trajectories, in closed form.

Tang et al., 2023, arXiv:2309.17074, whose heads and network are trained together by gradient descent on L_simple + sum_i
||u_i - tanh|eps_i - eps|||^2 + sum_i (1 - u_i) ||eps_i - eps||^2. Here the network is frozen, and both heads are ridge
regressions: block i's exit from h_i to what leaves the last block, with weight 1 + (1 - u_i) per sample once u_i is known;
and logit u_i on h_i's mean and the time, with the target u* = tanh(mean|eps_i - eps| / mean|eps|).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.acceleration.deediff import DeeDiff, hats, uncertainty
from ornstein.acceleration.layers.spans import lead, trunk
from ornstein.core import catalog
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import sample
from ornstein.core.process import grid
from ornstein.core.seam import Run, attach, gather, running

__all__ = ["train_deediff", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How much is recorded and how the heads follow the time."""

    samples: int = 16  # trajectories
    steps: int = 20  # states of each
    solver: str = "ddim"
    rule: str = "uniform"  # grid of the times
    knots: int = 4  # M: times between which the heads are interpolated
    rounds: int = 2  # of exits, then uncertainties; from the second on with the weights 1 + (1 - u)
    ridge: float = 1e-3  # times the mean diagonal
    seed: int = 12345


@dataclass(eq=False)
class _Tap:
    """Keeps what leaves each block."""

    kept: list[Tensor] = field(default_factory=list)
    effects: Effects = field(default_factory=Effects)

    def select(self, sites: Sequence[Any]) -> list[Any]:
        return trunk(sites, "DeeDiff")

    def start(self) -> None:
        return None

    def around(self, site: Any, clock: Clock, streams: Any, run: Any, memory: Any) -> Any:
        out = run(streams)
        self.kept.append(lead(out))
        return out


@torch.no_grad()
def train_deediff(denoiser: Any, shape: Sequence[int], cond: Callable[[torch.Generator, int], Any] | None = None,
                  recipe: Recipe = Recipe()) -> Artefact:  # fmt: skip
    """The artefact 'deediff'. shape: of one sample, [C, H, W]; cond(source, batch): conditions at random, or None. The
    denoiser is a Denoiser without guidance."""
    net = getattr(denoiser, "backbone", None)
    if not isinstance(net, torch.nn.Module) or recipe.knots < 2 or recipe.rounds < 1:
        raise OrnsteinError(f"{recipe} for {type(denoiser).__name__}", "It takes a Denoiser with a network; knots are at least 2.")
    x, t, c = _states(denoiser, shape, cond, recipe)
    tap, call = _Tap(), lambda: denoiser(x, t, c, Clock(t=t, ids=tuple(range(len(x))))).value
    value = _with(net, tap, call)
    *inner, last = [h.flatten(1, -2) for h in tap.kept]
    knots = torch.quantile(t.float(), torch.linspace(0, 1, recipe.knots))
    arrays, weights = {"knots": knots}, [torch.ones(len(x))] * len(inner)
    for _ in range(recipe.rounds):
        arrays["out"] = torch.stack([_exit(h, last, hats(t, knots), w, recipe.ridge) for h, w in zip(inner, weights)])
        doubts, errors = [], []
        for i, h in enumerate(inner):
            early = _with(net, DeeDiff(heads=Artefact("deediff", arrays), always=i), call)
            gap = (early - value).abs().flatten(1).mean(1) / value.abs().flatten(1).mean(1)
            errors.append(gap.tanh().clamp(1e-4, 1 - 1e-4))
            mean = torch.cat([F.layer_norm(h, h.shape[-1:]).mean(1), hats(t, knots)], 1)
            doubts.append(_ridge(mean.T @ mean, mean.T @ errors[-1].logit(), recipe.ridge))
        arrays["doubt"] = torch.stack(doubts)
        weights = [2 - uncertainty(arrays, i, h, t) for i, h in enumerate(inner)]
    made = {"error": [round(float(e.mean()), 4) for e in errors], "samples": recipe.samples, "steps": recipe.steps}
    return Artefact("deediff", arrays, made, describe(denoiser, recipe.rule, shape))


def _states(denoiser: Any, shape: Sequence[int], cond: Any, recipe: Recipe) -> tuple[Tensor, Tensor, Any]:
    """x [B, ...], t [B] and conditions of all states of the trajectories."""
    c = cond and cond(torch.Generator().manual_seed(recipe.seed), recipe.samples)
    kept: list[Tensor] = []
    times = grid(denoiser.process, recipe.steps, recipe.rule)[:-1]
    noise = NoiseSource.of(recipe.seed, range(recipe.samples)).draw(-1, torch.empty(recipe.samples, *shape))
    start = denoiser.process.prior(noise)
    sample(denoiser, start, catalog.build("solvers", recipe.solver), recipe.steps, cond=c, seed=recipe.seed, rule=recipe.rule,
           progress=lambda state, steps: kept.append(state.x))  # fmt: skip
    x, index = torch.cat([start, *kept[:-1]]), torch.arange(recipe.samples).repeat(recipe.steps)
    return x, times.repeat_interleave(recipe.samples), gather(c, index, recipe.samples)


def _with(net: torch.nn.Module, plugin: Any, call: Callable[[], Tensor]) -> Tensor:
    detach = attach(net, plugin)
    try:
        with running(Run()):
            return call()
    finally:
        detach()


def _exit(h: Tensor, last: Tensor, phi: Tensor, weight: Tensor, ridge: float) -> Tensor:
    """[M, D + 1, D]: the correction of h [B, N, D] towards `last`, interpolated by phi [B, M]."""
    one = torch.cat([h, torch.ones_like(h[..., :1])], -1)
    square = torch.einsum("bm,bk,bij->mikj", phi * weight[:, None], phi, one.mT @ one)
    right = torch.einsum("bm,bij->mij", phi * weight[:, None], one.mT @ (last - h))
    size = one.shape[-1]
    found = _ridge(square.flatten(0, 1).flatten(1), right.flatten(0, 1), ridge)
    return found.unflatten(0, (phi.shape[1], size))


def _ridge(square: Tensor, right: Tensor, ridge: float) -> Tensor:
    square = square.double()
    eye = torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square + ridge * square.diagonal().mean() * eye, right.double()).float()
