"""Grounds for searches over starts: a Gaussian and mixtures with exact answers, and digits under one classifier's reward
with another one held out, which the search never asks."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ornstein import model
from ornstein.core.loop import Controller, sample
from ornstein.core.seam import Run
from ornstein.data.digits import Digits
from ornstein.evidence import Row
from ornstein.metrics.layers.digits import classifier
from ornstein.processes.flow import Flow
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.best_of_n import BestOfN
from ornstein.testbeds import Mixture

DIMS, STEPS, COUNT = 16, 8, 100  # of the mixtures: dimensions, steps of a run, samples of a seed
FEW, LABELS = 5, [0, 2, 3, 4, 6, 8]  # of the digits: steps of a run, samples of a seed


def near(x: Tensor, cond: Any = None) -> Tensor:
    """The mixtures' reward: minus the squared distance to the point (1, ..., 1)."""
    return -(x - 1).square().sum(1)


def drawn(seed: int, steps: int, *controllers: Controller) -> tuple[Tensor, dict]:
    """COUNT samples of the seed's mixture and the facts of the run."""
    run = Run()
    mixture = Mixture.random(Flow(), DIMS, 10, 0.5, seed)
    x = sample(mixture, (COUNT, DIMS), DPMpp2M(), steps, seed=seed, controllers=controllers, run=run)
    return x, run.record.facts


@cache
def independent(seed: int, n: int) -> Tensor:
    """The rewards [COUNT, n] of independent samples of the seed's mixture."""
    mixture = Mixture.random(Flow(), DIMS, 10, 0.5, seed)
    return near(sample(mixture, (COUNT * n, DIMS), DPMpp2M(), STEPS, seed=seed)).reshape(COUNT, n)


def best(rewards: Tensor, n: int) -> float:
    """Mean over the samples of the best of the first n rewards [B, N]."""
    return rewards[:, :n].max(1).values.mean().item()


def odds(x: Tensor, cond: Any) -> Tensor:
    """Log odds of the condition's digit by the shipped classifier: of [N, 1, 8, 8] -> [N]."""
    logits = classifier()(x)
    mine = logits.gather(1, cond["label"][:, None])[:, 0]
    return mine - logits.scatter(1, cond["label"][:, None], -torch.inf).logsumexp(1)


def ink(x: Tensor, cond: Any = None) -> Tensor:
    """Mean brightness, paper -1, ink 1: a reward that says nothing of digits."""
    return x.flatten(1).mean(1)


@cache
def unseen() -> tuple[Tensor, Tensor]:
    """The 360 pictures, flat, and labels that the classifier was not trained on (every fifth of the file)."""
    everything = Digits("all")
    return everything.images()[::5].flatten(1), everything.labels[::5]


def held(x: Tensor, label: Tensor) -> Tensor:
    """The verifier held out, [N]: how much nearer the nearest unseen picture of the right digit is than of a wrong one."""
    pictures, labels = unseen()
    far = torch.cdist(x.flatten(1), pictures)
    right = labels[None] == label[:, None]
    return far.masked_fill(right, torch.inf).amin(1) - far.masked_fill(~right, torch.inf).amin(1)


def real(x: Tensor) -> Tensor:
    """Distance to the nearest unseen picture of any digit, [N]: large where a picture is no digit."""
    return torch.cdist(x.flatten(1), unseen()[0]).amin(1)


def digits(seeds: int, steps: int, *controllers: Controller) -> tuple[Tensor, dict]:
    """One picture of each of LABELS for each seed by the small U-Net, without guidance, and the facts of the run."""
    unet, run, labels = model.load("digits-unet"), Run(), LABELS * seeds
    x = sample(unet.denoiser, (len(labels), *unet.shape), DPMpp2M(), steps, run=run, cond=unet.encode(labels),
               seed=[s for s in range(seeds) for _ in LABELS], controllers=controllers)  # fmt: skip
    return x, run.record.facts


@cache
def pool(seeds: int, n: int) -> tuple[Tensor, Tensor]:
    """n independent pictures of each sample [B, n, 1, 8, 8], the first the plain one, and their log odds [B, n]."""
    seen = _Last()
    _, facts = digits(seeds, FEW, BestOfN(odds, n), seen)
    return seen.x.unflatten(0, (-1, n)), facts["best_of_n"]["rewards"]


class _Last(Controller):
    """Keeps what all particles came to."""

    def after(self, before: Any, now: Any) -> Any:
        self.x = now.x
        return now


def chosen(pictures: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Of pictures [B, N, ...] each sample's best among the first n, by rewards [B, N]."""
    return pictures[torch.arange(len(pictures)), rewards[:, :n].argmax(1)]


@cache
def longer(seeds: int, steps: int) -> Tensor:
    """The plain pictures of as many steps."""
    return digits(seeds, steps)[0]


def verified(x: Tensor) -> dict[str, list[float]]:
    """What all verifiers say of `digits`, one number a seed."""
    seeds = len(x) // len(LABELS)
    label = torch.tensor(LABELS * seeds)
    said = {"odds": odds(x, {"label": label}), "held": held(x, label), "ink": ink(x), "real": real(x)}
    return {name: v.reshape(seeds, -1).mean(1).tolist() for name, v in said.items()}


def judged(found: dict[str, tuple[Tensor, str, str]]) -> list[Row]:
    """Two rows for each name -> (pictures, kind, cost): the verifier optimised, and the one held out."""
    rows = []
    for name, (x, kind, cost) in found.items():
        said = verified(x)
        rows += [Row(name, kind, "digits: log odds, optimised (higher)", said["odds"], cost),
                 Row(name, kind, "digits: margin, held out (higher)", said["held"], cost)]  # fmt: skip
    return rows
