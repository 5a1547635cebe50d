"""Learn HarmoniCa's table for a frozen denoiser: one row of the router per step of the cached trajectory itself.

Huang et al., 2024, arXiv:2410.01723. Step-wise denoising training: at step t a branch says w F + (1 - w) C with its kept
output C, which F (detached) replaces where w > tau; the loss mean (student - teacher)^2 lambda_t + beta sum w_t is lowered,
and the student's answer leads to the next step. lambda_t is the image-error proxy: how far the final samples move when
row t of the present table is used as well as those before it. Training evaluates the network twice per step and backwards
once; lambda costs T^2 / 2 evaluations more, each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.acceleration.harmonica import branches
from ornstein.core import catalog
from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import grid
from ornstein.core.seam import Run, attach, running
from ornstein.core.sites import find_sites

__all__ = ["train_harmonica", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How long and how hard. The publication: 20000 updates of batch 64, lr 0.01, beta fixed, lambda every 500."""

    steps: int = 20  # T of the sampler; a table serves this many alone
    solver: str = "ddim"
    rule: str = "uniform"  # grid of the times
    share: float = 0.4  # of branch evaluations to be computed; beta follows it
    trajectories: int = 100  # of `batch` samples; every row is updated once in each
    batch: int = 8
    lr: float = 0.1  # of AdamW, without decay
    threshold: float = 0.1  # tau
    beta: float = 1e-4  # where the price of computing starts, in units of the mean teacher square
    proxy_every: int = 0  # trajectories between renewals of lambda; 0: lambda is 1
    seed: int = 0


@dataclass(eq=False)
class Router:
    """The soft plugin: mixes what is computed with what was kept. hard: as the table will be used."""

    r: Tensor  # [T, K], of which row 0 counts as 5
    names: tuple[str, ...]
    threshold: float
    hard: bool = False
    effects: ClassVar[Effects] = Effects.of(replaces="evaluation")

    def select(self, sites: Sequence[Any]) -> list[Any]:
        return branches(sites)

    def start(self) -> dict[str, Any]:
        return {}

    def around(self, site: Any, clock: Clock, streams: Any, run: Any, memory: dict) -> Any:
        kept, w = memory.get(site.name), self.r[clock.step, self.names.index(site.name)].sigmoid()
        computes = kept is None or clock.step == 0 or bool(w > self.threshold)
        if self.hard and not computes:
            return kept
        fresh = run(streams)
        if computes:
            memory[site.name] = {k: None if v is None else v.detach() for k, v in fresh.items()}
        if self.hard or kept is None or clock.step == 0:
            return fresh
        return {k: None if v is None else w * v + (1 - w) * kept[k] for k, v in fresh.items()}


def train_harmonica(denoiser: Any, shape: Sequence[int], cond: Callable[[torch.Generator, int], Any] | None = None,
                    recipe: Recipe = Recipe()) -> Artefact:  # fmt: skip
    """The artefact 'harmonica'. shape: of one sample, [C, H, W]; cond(source, batch): conditions at random, or None.

    The denoiser may be guided; its network is frozen by the caller, or its gradients are left alone.
    """
    if not 0 < recipe.share <= 1 or recipe.steps < 2:
        raise OrnsteinError(f"share={recipe.share}, steps={recipe.steps}", "share is in (0, 1], steps at least 2.")
    net = _network(denoiser)
    names = tuple(s.name for s in branches(find_sites(net)))
    source = torch.Generator().manual_seed(recipe.seed)
    r = torch.randn(recipe.steps, len(names), generator=source).clamp(-5, 5)
    r[0] = 5.0
    router = Router(r.requires_grad_(), names, recipe.threshold)
    optimiser = torch.optim.AdamW([r], lr=recipe.lr, weight_decay=0.0)
    solver, weight = catalog.build("solvers", recipe.solver), torch.ones(recipe.steps)
    beta, share = recipe.beta, 1.0
    detach = attach(net, router)
    try:
        for k in range(recipe.trajectories):
            c = None if cond is None else cond(source, recipe.batch)
            if recipe.proxy_every and k and k % recipe.proxy_every == 0:
                weight = _proxy(denoiser, router, solver, recipe, shape, c, k)
            _trajectory(denoiser, router, solver, recipe, shape, c, k, weight, beta, optimiser)
            share = _share(r, recipe.threshold)
            beta *= min(max((share / recipe.share) ** 2, 0.5), 1.5)
    finally:
        detach()
    made = {"share": share, "beta": beta, "branches": list(names), "solver": recipe.solver, "threshold": recipe.threshold}
    return Artefact("harmonica", {"router": r.detach(), "weight": weight}, made, describe(denoiser, recipe.rule, shape))


def _network(denoiser: Any) -> torch.nn.Module:
    while not isinstance(getattr(denoiser, "backbone", None), torch.nn.Module):
        if not hasattr(denoiser, "denoiser"):
            raise OrnsteinError("this denoiser has no network to put a cache on", "Give a Denoiser with a backbone.")
        denoiser = denoiser.denoiser
    return denoiser.backbone


def _share(r: Tensor, threshold: float) -> float:
    """Of the table that is used: row 0 is computed."""
    computed = r.detach().sigmoid() > threshold
    computed[0] = True
    return float(computed.float().mean())


def _start(recipe: Recipe, shape: Sequence[int], process: Any, number: int) -> tuple[Tensor, tuple, NoiseSource]:
    ids = tuple(range(number * recipe.batch, (number + 1) * recipe.batch))
    noise = NoiseSource.of(recipe.seed, ids)
    x = noise.draw(-1, torch.empty(recipe.batch, *shape))
    return process.prior(x), ids, noise


def _trajectory(denoiser: Any, router: Router, solver: Any, recipe: Recipe, shape: Sequence[int], cond: Any, number: int,
                weight: Tensor, beta: float, optimiser: Any) -> None:  # fmt: skip
    """One trajectory of the student, with one update of the router after each evaluation but those of the first step."""
    times = grid(denoiser.process, recipe.steps, recipe.rule)
    x, ids, noise = _start(recipe, shape, denoiser.process, number)
    memory, run = solver.start(x, noise), Run()
    for k in range(recipe.steps):
        clock = Clock(k, 0, recipe.steps, times[k], "cond", ids)

        def denoise(x: Tensor, t: Any, clock: Clock = clock) -> Prediction:
            with torch.no_grad():
                teacher = denoiser(x, t, cond).value  # outside of the run: the plain network
            with running(run), torch.set_grad_enabled(clock.step > 0):
                student = denoiser(x, t, cond, clock)
            if clock.step:
                w = router.r[clock.step].sigmoid()
                gap = (student.value - teacher).square().mean() / teacher.square().mean()
                optimiser.zero_grad()
                (weight[clock.step] * gap + beta * w.sum()).backward(inputs=[router.r])
                optimiser.step()
                with torch.no_grad():
                    router.r.clamp_(-5, 5)
            return Prediction(student.x, student.levels, student.kind, student.value.detach())

        x, memory = solver.step(denoise, denoiser.process, x, times[k], times[k + 1], memory)


@torch.no_grad()
def _proxy(denoiser: Any, router: Router, solver: Any, recipe: Recipe, shape: Sequence[int], cond: Any,
           number: int) -> Tensor:  # fmt: skip
    """lambda [T], mean 1 over the steps after the first: the cached trajectory up to t, and from there the plain network."""
    times, process = grid(denoiser.process, recipe.steps, recipe.rule), denoiser.process
    x, ids, noise = _start(recipe, shape, process, number)
    router.hard, run, found = True, Run(), torch.ones(recipe.steps)

    def onward(x: Tensor, memory: Any, begin: int, end: int, cached: bool) -> tuple[Tensor, Any]:
        for k in range(begin, end):
            clock = Clock(k, 0, recipe.steps, times[k], "cond", ids) if cached else None
            with running(run) if cached else nullcontext():
                x, memory = solver.step(lambda x, t: denoiser(x, t, cond, clock), process, x, times[k], times[k + 1],  # noqa: B023
                                        memory)  # fmt: skip
        return x, memory

    x, memory = onward(x, solver.start(x, noise), 0, 1, True)
    before = onward(x, memory, 1, recipe.steps, False)[0]
    for k in range(1, recipe.steps):
        x, memory = onward(x, memory, k, k + 1, True)
        now = onward(x, memory, k + 1, recipe.steps, False)[0]
        found[k], before = (now - before).square().mean(), now
    router.hard = False
    return torch.cat([found[:1], found[1:] / found[1:].mean().clamp_min(1e-20)])
