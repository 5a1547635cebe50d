"""The common ground of guidances by a gradient: the exact classifier of a mixture, its tilted law, and digits without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import guide
from ornstein.core.loop import Controller, sample
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process
from ornstein.evidence import Row
from ornstein.evidence._adam import Adam
from ornstein.evidence._laws import classes, energy
from ornstein.metrics.accuracy import Accuracy
from ornstein.model import load
from ornstein.processes.vp import VP
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

READ = "share read as asked by a second classifier (higher)"
HIT = "share that the exact classifier gives to its label (higher)"
NEAR = "energy distance to held-out digits of the asked class (lower)"
LAW = "energy distance to the exact law p(x) p(y|x)^w (lower)"


@dataclass(frozen=True)
class Unlabelled:
    """A denoiser that never hears the run's condition: what guides has it alone."""

    denoiser: Any

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: Tensor, t: Any, cond: Any = None, clock: Any = None) -> Prediction:
        return self.denoiser(x, t, self.unconditional(cond, len(x)), clock)

    def unconditional(self, cond: Any, batch: int) -> Any:
        return self.denoiser.unconditional(cond, batch)


def posterior(mixture: Mixture) -> Callable[..., Tensor]:
    """The exact classifier: (x_t, flow time [B]) -> log p(label, x_t) [B, labels]; of clean samples without a time."""
    share = torch.stack([mixture.weights[mixture.labels == k].sum() for k in range(mixture.null)]).log()

    def logits(x: Tensor, place: Tensor | None = None) -> Tensor:
        t = 0.0 if place is None else mixture.process.time(2 * ((1 - place).log() - place.log()))
        each = [mixture.log_density(x, t, {"label": torch.full((len(x),), k)}) for k in range(mixture.null)]
        return torch.stack(each, 1) + share.to(x)

    return logits


@cache
def tilted(mixture: Mixture, label: int, power: float, count: int, seed: int) -> Tensor:
    """Samples [count, D] of p(x) p(label | x)^power, resampled from many of p(x | label)."""
    many = count if power == 1 else 8 * count
    pool = mixture.sample(many, seed, {"label": torch.full((many,), label)})
    if power == 1:
        return pool
    weight = (power - 1) * posterior(mixture)(pool).log_softmax(1)[:, label]
    return pool[torch.multinomial(weight.softmax(0), count, True, generator=torch.Generator().manual_seed(seed))]


def bed(seed: int) -> Mixture:
    """Four labels of three wide Gaussians each in eight dimensions: labels are in doubt."""
    return classes(VP(), seed, std=0.7)


def law(mixture: Mixture, rules: Sequence[Any], power: float, seed: int, count: int = 160, steps: int = 20,
        labelled: bool = False, controllers: Sequence[Controller] = ()) -> tuple[float, float]:  # fmt: skip
    """Share with the asked label by the exact classifier, and distance of each label to its tilted law, mean over labels."""
    labels, base = mixture.null, mixture if labelled else Unlabelled(mixture)
    cond = {"label": torch.arange(count) % labels}
    x = sample(guide(base, *rules), (count, mixture.means.shape[1]), DPMpp2M(), steps, cond=cond, seed=seed, rule="karras",
               dtype=torch.float64, controllers=controllers)  # fmt: skip
    far = [energy(x[k::labels], tilted(mixture, k, power, 400, seed + 50)) for k in range(labels)]
    return (posterior(mixture)(x).argmax(1) == cond["label"]).double().mean().item(), sum(far) / labels


class Reader(nn.Module):
    """A classifier of clean samples with one hidden layer of ReLU: [B, ...] -> logits [B, classes]."""

    def __init__(self, features: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(features, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.into(x.flatten(1).to(self.into.weight)))).to(x)


def fitted(x: Tensor, labels: Tensor, seed: int = 0, steps: int = 300) -> Reader:
    """Trained on clean samples for a quarter of a second."""
    net, source = Reader(x[0].numel(), int(labels.max()) + 1), torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for p in net.parameters():
            nn.init.normal_(p, std=0.1, generator=source)
        chooser = Adam(net.parameters(), 5e-3, decay=0.02)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,), generator=source)
            chooser.zero_grad()
            F.cross_entropy(net(x[rows]), labels[rows]).backward()
            chooser.step()
    return net.eval().requires_grad_(False)


def mixture_reader(mixture: Mixture, seed: int) -> Reader:
    """A classifier that has seen clean samples of the mixture alone."""
    x = mixture.sample(3000, seed + 70).float()
    said = posterior(mixture)(x).softmax(1)
    return fitted(x, torch.multinomial(said, 1, generator=torch.Generator().manual_seed(seed))[:, 0], seed)


@cache
def digits_reader(seed: int = 0) -> Reader:
    """A classifier of clean digits; not the one that judges."""
    data = catalog.build("data", "digits")
    with torch.inference_mode(False):
        return fitted(data.images(), data.labels, seed)


def drawn(rules: Sequence[Any], count: int, seed: int, steps: int = 8, labelled: bool = False,
          controllers: Sequence[Controller] = ()) -> Tensor:  # fmt: skip
    """Digits 0 to 9 in turn, [count, 1, 8, 8], by the shipped model without its labels."""
    base = load("digits").denoiser
    return sample(guide(base if labelled else Unlabelled(base), *rules), (count, 1, 8, 8), DPMpp2M(), steps,
                  cond={"label": torch.arange(count) % 10}, seed=seed, controllers=controllers)  # fmt: skip


def judged(x: Tensor) -> tuple[float, float]:
    """READ and NEAR of digits 0 to 9 in turn; the distance is the mean over the classes."""
    data, label = catalog.build("data", "digits:split=test"), torch.arange(len(x)) % 10
    images = data.images().flatten(1)
    near = sum(energy(x[k::10].flatten(1), images[data.labels == k]) for k in range(10)) / 10
    return Accuracy()(x.clamp(-1, 1), label).value, near


def digits(ways: dict[tuple[str, str, str], Callable[[int], Tensor]], seeds: int) -> dict[str, list[Row]]:
    """(kind, name, cost) -> seed -> digits; rows of READ and NEAR by name."""
    rows = {}
    for (kind, name, cost), draw in ways.items():
        read, near = zip(*(judged(draw(seed)) for seed in range(seeds)))
        rows[name] = [Row(f"digits: {name}", kind, READ, read, cost), Row(f"digits: {name}", kind, NEAR, near, cost)]
    return rows
