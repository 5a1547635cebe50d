"""One way of sampling labelled data, judged by the exact law."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ornstein.core.denoiser import Denoises, guide
from ornstein.core.loop import sample
from ornstein.evidence import Row
from ornstein.evidence._laws import bayes, energy
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.testbeds import Mixture

__all__ = ["Trial"]

HIT = "share that the exact Bayes classifier gives to its label (higher)"
LAW = "energy distance to the exact law of the label (lower)"
SPREAD = "standard deviation within a label over the exact one (1 is right)"


@dataclass
class Trial:
    """Collects the three figures of one method over seeds."""

    name: str
    kind: str
    hit: list[float] = field(default_factory=list)
    law: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    calls: int = 0

    def add(self, truth: Mixture, model: Denoises, rules: tuple, steps: int, seed: int, count: int = 480) -> None:
        """Samples of all labels in equal number."""
        labels = truth.null
        cond, counter = {"label": torch.arange(count) % labels}, _Counter(model)
        x = sample(
            guide(counter, *rules), (count, truth.means.shape[1]), DPMpp2M(), steps, cond=cond, seed=seed
        ).double()
        real = truth.sample(count, seed=seed, cond=cond)
        self.hit.append((bayes(truth, x, range(labels)).argmax(1) == cond["label"]).double().mean().item())
        pairs = [(x[k::labels], real[k::labels]) for k in range(labels)]
        self.law.append(sum(energy(a, b) for a, b in pairs) / labels)
        self.spread.append(sum((a.var(0).sum() / b.var(0).sum()).sqrt().item() for a, b in pairs) / labels)
        self.calls = sum(counter.calls)

    def rows(self) -> list[Row]:
        cost = f"{self.calls} NFE"
        return [Row(self.name, self.kind, metric, values, cost)
                for metric, values in ((HIT, self.hit), (LAW, self.law), (SPREAD, self.spread))]  # fmt: skip


class _Counter:
    """A denoiser, and the bad one where a rule brings it, counted by rows asked."""

    def __init__(self, denoiser: Denoises) -> None:
        self.denoiser, self.process, self.calls = denoiser, denoiser.process, []

    def __call__(self, x, t, cond=None, clock=None):
        self.calls.append(1)
        return self.denoiser(x, t, cond, clock)

    def unconditional(self, cond, batch):
        return self.denoiser.unconditional(cond, batch)
