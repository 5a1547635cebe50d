"""Counting: how often a picture holds exactly as many things as were asked for, by the number asked.

Of the form of T2ICountBench: "Text-to-image diffusion models cannot count, and prompt refinement cannot help", 2025,
arXiv:2503.06884, where people count; here connected parts are counted, which is exact for separate things on a plain ground:

    accuracy(n) = share of pictures asked for n things in which n are found,    reported: over all, and `by_count`

The interval is the binomial's exact one. The floor is the counter's own accuracy on composed scenes of the same numbers
(metrics/layers/scenes), which is what a perfect model would score. Things that touch count as one, a broken one as two.
Cost: no network; as many 3x3 maximum filters as the longest path within a part.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, check_images, proportion
from .layers.scenes import CELL, components, scenes

__all__ = ["Counting", "components", "scenes"]


@dataclass(frozen=True)
class Counting:
    """Share of pictures [N, C, H, W] in [-1, 1], bright on dark, that hold the number of things asked for."""

    threshold: float = 0.0  # brightness (mean of channels) above which a pixel belongs to a thing
    least: int = 3  # pixels: smaller parts are specks and do not count
    level: float = 0.95  # of the interval

    def __post_init__(self) -> None:
        if self.least < 1 or not 0 < self.level < 1:
            raise OrnsteinError(f"counting has least={self.least}, level={self.level}", "Give least >= 1, 0 < level < 1.")

    def __call__(self, generated: Tensor, reference: Tensor) -> Measure:
        """reference: the numbers [N] asked for, integers. Measure without unit, higher is better."""
        found = self.count(generated, reference)
        return self._measure(found == reference.to(found.device), reference.cpu(), generated.shape[-2:])

    def by_count(self, generated: Tensor, reference: Tensor) -> dict[int, Measure]:
        """A Measure for each number that was asked for, named after it: 'counting-3'."""
        hits, answer = self.count(generated, reference) == reference.to(generated.device), {}
        for n in sorted(set(reference.tolist())):
            rows = reference.to(hits.device) == n
            answer[n] = self._measure(hits[rows], reference[rows.cpu()].cpu(), generated.shape[-2:], f"counting-{n}")
        return answer

    def count(self, generated: Tensor, reference: Tensor) -> Tensor:
        """How many things each picture holds, int [N]; raises where pictures and numbers do not fit."""
        check_images(generated, "generated", least=1)
        if reference.shape != generated.shape[:1] or reference.is_floating_point() or reference.min() < 0:
            raise OrnsteinError(f"numbers {list(reference.shape)} of type {reference.dtype} do not fit {len(generated)} pictures",
                                "Give for each the number asked for, an integer from 0.")  # fmt: skip
        return components(generated.mean(1, keepdim=True), self.threshold, self.least)

    def _measure(self, hits: Tensor, asked: Tensor, size: tuple[int, int], name: str = "counting") -> Measure:
        good, n, side = int(hits.sum()), len(hits), min(size)
        floor = None
        if asked.max() <= (side // CELL) ** 2:
            floor = (components(scenes(asked, side), self.threshold, self.least) == asked).double().mean().item()
        low, high = proportion(good, n, self.level)
        return Measure(good / n, low, high, n, name, "", "higher", f"components>{self.threshold:g}", floor)
