"""Pareto front of settings: which of them no other beats in consistency, diversity and realism together, and how surely.

Pietro Astolfi, Marlene Careil, Melissa Hall, Oscar Manas, Matthew Muckley, Jakob Verbeek, Adriana Romero-Soriano, Michal
Drozdzal, "Consistency-diversity-realism Pareto fronts of conditional image generative models", 2024, arXiv:2406.10429.

    a dominates b  where a is at least as good in all three and better in one;    front = those that nothing dominates

Consistency: a score a picture that the caller gives (class accuracy, agreement with the caption). Diversity: recall or
coverage. Realism: precision or density (metrics/prdc). Three figures with their noise make almost any setting look
undominated, so each gets the share of bootstrap resamples in which it stands on the front: pictures are drawn anew within
a setting, reference pictures once for all settings. Equal counts only, since recall depends on them.
Cost: that of prdc for each setting; resampling costs no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown

from .layers.balls import per_sample
from .layers.features import Extractor, features_of_both
from .layers.measure import Measure, bootstrap, check_values, halves

__all__ = ["Pareto", "Point", "undominated"]


@dataclass(frozen=True)
class Point:
    """One setting: its three Measures, whether it is on the front, and in what share of resamples it is."""

    name: str
    consistency: Measure
    diversity: Measure
    realism: Measure
    on_front: bool
    share: float

    def __str__(self) -> str:
        figures = ", ".join(str(m) for m in (self.consistency, self.diversity, self.realism))
        return f"{self.name}: {'on the front' if self.on_front else 'dominated'} ({self.share:.0%} of resamples); {figures}"


@dataclass(frozen=True)
class Pareto:
    """The points of some settings, in the order given: pictures [N, C, H, W] or features [N, D] of each, N the same."""

    of: ClassVar[str] = "settings"
    diversity: str = "coverage"  # or recall, which rises under noise
    realism: str = "precision"  # or density
    k: int = 5  # nearest neighbours that set a ball's radius
    extractor: str | Extractor = "random-conv"  # name, an Extractor, or "precomputed:NAME"
    rounds: int = 1000  # bootstrap resamples behind intervals and shares
    seed: int = 0  # of the bootstrap and of the floor's split

    def __post_init__(self) -> None:
        if self.diversity not in ("recall", "coverage"):
            raise unknown("pareto diversity", self.diversity, ("recall", "coverage"))
        if self.realism not in ("precision", "density"):
            raise unknown("pareto realism", self.realism, ("precision", "density"))
        if self.k < 1 or self.rounds < 10:
            raise OrnsteinError(f"pareto has k={self.k}, rounds={self.rounds}", "Give k >= 1, rounds >= 10.")

    def __call__(self, settings: Mapping[str, Tensor], consistency: Mapping[str, Tensor], reference: Tensor) -> list[Point]:
        """consistency: of each setting a score a picture, [N], higher is better; reference: real pictures."""
        check_settings(settings, consistency)
        values, measures = [], []
        for name, images in settings.items():
            g, r, seen = features_of_both(images, reference, self.extractor, 2 * self.k + 2)
            found, floor = per_sample(g, r, self.k), per_sample(*halves(r, self.seed), self.k)
            each = [consistency[name].detach().double(), found[self.diversity], found[self.realism]]
            names = ("consistency", f"{self.diversity}@{self.k}", f"{self.realism}@{self.k}")
            floors = (None, floor[self.diversity].mean().item(), floor[self.realism].mean().item())
            values.append(each)
            measures.append([Measure(v.mean().item(), *bootstrap(v, self.rounds, self.seed), len(g), called,
                                     extractor="caller's" if f is None else seen, floor=f)
                             for v, called, f in zip(each, names, floors)])  # fmt: skip
        front = undominated(torch.stack([torch.stack([v.mean() for v in each]) for each in values])[None])[0]
        shares = undominated(self._resampled(values)).double().mean(0)
        return [Point(name, *m, bool(f), s) for name, m, f, s in zip(settings, measures, front, shares.tolist())]

    def _resampled(self, values: list[list[Tensor]]) -> Tensor:
        """Means of resamples [rounds, settings, 3]."""
        generator, n, m = torch.Generator().manual_seed(self.seed), len(values[0][0]), len(values[0][1])
        real, columns = torch.randint(m, (self.rounds, m), generator=generator), []
        for scores, diverse, realistic in values:
            rows = torch.randint(n, (self.rounds, n), generator=generator)
            columns.append(torch.stack([scores.cpu()[rows].mean(1), diverse.cpu()[real].mean(1),
                                        realistic.cpu()[rows].mean(1)], 1))  # fmt: skip
        return torch.stack(columns, 1)


def undominated(points: Tensor) -> Tensor:
    """points [..., S, axes], higher is better on each axis -> [..., S] whether no other point dominates it."""
    a, b = points[..., :, None, :], points[..., None, :, :]  # a dominated by b?
    return ~((b >= a).all(-1) & (b > a).any(-1)).any(-1)


def check_settings(settings: Mapping[str, Tensor], consistency: Mapping[str, Tensor]) -> None:
    """Raise unless there are two settings or more of equal counts, each with a score a picture."""
    if len(settings) < 2 or set(settings) != set(consistency):
        raise OrnsteinError(f"settings {sorted(settings)} and scores of {sorted(consistency)}",
                            "Give two settings or more, and a score [N] a picture for each.")  # fmt: skip
    if len(counts := {len(images) for images in settings.values()}) > 1:
        raise OrnsteinError(f"settings of {sorted(counts)} pictures do not compare", "Draw as many of each.")
    for name, score in consistency.items():
        if score.shape != (len(settings[name]),):
            raise OrnsteinError(f"{list(score.shape)} scores for {len(settings[name])} pictures of '{name}'", "Give one each.")
        check_values(score.double()[:, None], f"scores of '{name}'", 2)
