"""Latent error: how far a run's latents are from a reference run's of the same seeds, as a share of their length.

No first paper: the relative error in the Euclidean norm, as numerical analysis has it, of the tensor that the sampler hands
on, before any decoder:

    e_i = |g_i - r_i| / |r_i|,    reported: the mean over samples i, or a quantile

Such errors have long tails: a few trajectories near a watershed go elsewhere and carry the mean, and a bootstrap from tens
of samples that holds none of them is too narrow. `quantile=0.5` or 0.9 has an exact interval whatever the tails.
The figure for what acceleration and compression do to a run: no extractor, no range, the same in any scaling of the
latents. sqrt(2) is what two unrelated latents of unit variance have. Cost: one pass over the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

from .layers.measure import Measure, check_tensors, paired

__all__ = ["LatentError", "relative"]


@dataclass(frozen=True)
class LatentError:
    """Relative error |g - r| / |r| of paired samples [N, ...] of any shape and scale; 0 for identical ones."""

    quantile: float | None = None  # between 0 and 1: takes the mean's place, with an exact interval
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of the bootstrap

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise OrnsteinError(f"latent has quantile={self.quantile}", "Give a share between 0 and 1, or None.")

    def __call__(self, generated: Tensor, reference: Tensor, again: Tensor | None = None) -> Measure:
        """Measure without unit, lower is better; n is the number of pairs. again: the reference run's with other seeds."""
        check_tensors(generated, reference)
        name = "latent-error" if self.quantile is None else f"latent-error-q{self.quantile:g}"
        return paired(relative, generated, reference, again, name=name, better="lower", rounds=self.rounds, seed=self.seed,
                      quantile=self.quantile)  # fmt: skip


def relative(generated: Tensor, reference: Tensor) -> Tensor:
    """|g - r| / |r| of each sample of [N, ...], [N], in float64. A reference sample of zeros: OrnsteinError."""
    g, r = (v.detach().double().flatten(1) for v in (generated, reference))
    length = torch.linalg.vector_norm(r, dim=1)
    if bool((length == 0).any()):
        raise OrnsteinError("a reference sample is all zeros", "A relative error needs a length to relate to.")
    return torch.linalg.vector_norm(g - r, dim=1) / length
