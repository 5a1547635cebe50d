"""Perceptual distance: how far apart paired images are in the unit-normalised channel features of a network.

Of the form of: Richard Zhang, Phillip Isola, Alexei A. Efros, Eli Shechtman, Oliver Wang, "The unreasonable
effectiveness of deep features as a perceptual metric", 2018, arXiv:1801.03924.

    d(x, y) = mean over layers l of  (1 / H_l W_l) sum_hw || f_l(x)_hw - f_l(y)_hw ||^2,   f = features / |features|

This is the form with equal weights: no weights learned from human judgements, and a network of your choice, so that it
is not LPIPS and its figures do not compare with published ones. Offline default: `random-conv`, never trained.
Cost: two passes through the extractor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.features import CHUNK, EXTRACTORS, Extractor, extractor
from .layers.measure import Measure, check_pair, paired

__all__ = ["Perceptual"]


@dataclass(frozen=True)
class Perceptual:
    """Feature-space distance of paired images [N, C, H, W] in [-1, 1]; 0 for identical images, at most 2 a layer."""

    extractor: str | Extractor = "random-conv"  # one with maps: random-conv, efficientnet-lite0, digits
    eps: float = 1e-8  # added to the length of a feature, so that features that are all zero stay zero
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure without unit, lower is better; n is the number of pairs. again: the reference run's with other seeds."""
        check_pair(generated, reference)

        def each(generated: Tensor, reference: Tensor) -> Tensor:
            pairs = zip(generated.split(CHUNK), reference.split(CHUNK))
            with torch.no_grad():
                return torch.cat([self.each(x.detach().float(), y.detach().float()) for x, y in pairs])

        return paired(each, generated, reference, again, name="perceptual", better="lower",
                      extractor=extractor(self.extractor).name, rounds=self.rounds, seed=self.seed)  # fmt: skip

    def each(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair, [N]; differentiable in both where the extractor's maps are."""
        see = extractor(self.extractor)
        if see.maps is None:
            able = ", ".join(e.name for e in EXTRACTORS.values() if e.maps)
            raise OrnsteinError(f"the extractor '{see.name}' has no feature maps", f"Choose one of {able}.")
        layers = zip(see.maps(x), see.maps(y))
        return torch.stack([(self._unit(f) - self._unit(g)).square().sum(1).mean((1, 2)) for f, g in layers]).mean(0)

    def _unit(self, f: Tensor) -> Tensor:
        """f [N, C, H, W] with channel vectors of length 1."""
        return f / (f.square().sum(1, keepdim=True) + self.eps**2).sqrt()
