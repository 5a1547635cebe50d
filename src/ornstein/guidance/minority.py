"""Minority guidance: towards samples that the model itself finds unusual.

Don't Play Favorites: Minority Guidance for Diffusion Models, Soobin Um, Suhyeon Lee, Jong Chul Ye, 2023, arXiv:2301.12334. The
minority score of a sample is what is lost when it is noised to one level and denoised in one step (eq. 6),

    MS(x0) = E_noise d(x0, x0hat(a x0 + s noise)),

large where the denoiser pulls towards something more usual. Scores are cut into L quantiles, a classifier of noisy samples
learns them, and guides to one of them: score' = score + w grad log p(l | x_t). Costs the classifier, forward and backward, per
step; before that, one network call for each draw and sample that is scored, and the training of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels, Process

from .layers.contrast import ALWAYS
from .layers.gradient import check, guided, needs, places
from .layers.noisy import NoisyMLP, fit, noised, scaled

__all__ = ["Minority", "learn_levels", "minority_score", "quantiles"]


@dataclass(frozen=True, eq=False)
class Minority:
    """The gradient with respect to x_t of the log-probability of a level of rarity."""

    predictor: Callable | None = None  # (x_t at the size of the data [B, ...], flow time [B]) -> logits [B, L]
    strength: float = 0.0  # w; 0 = off. The publication's 3.5
    level: int = -1  # of rarity, 0 the most usual; -1 the rarest
    std: float = 0.5  # standard deviation of the data: the predictor sees x_t std / sqrt(a^2 std^2 + s^2)
    unit: bool = False  # gradients of unit length
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s), (low, high]: 0 data, 1 noise

    def __post_init__(self) -> None:
        check(self.strength, "noisy", self.std, self.interval)
        if self.strength != 0:
            needs(self.predictor, "minority guidance", "predictor=, such as learn_levels makes")

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: the denoiser's own."""
        return guided(denoiser, x, t, cond, clock, self._log_density, self.strength, "noisy", self.std, self.interval,
                      self.unit)  # fmt: skip

    def _log_density(self, x: Tensor, levels: Levels, cond: Any) -> Tensor:
        said = self.predictor(scaled(x, levels, self.std), places(levels, x))
        if not -said.shape[1] <= self.level < said.shape[1]:
            raise OrnsteinError(f"there is no level {self.level} of rarity", f"The predictor knows {said.shape[1]}, from 0.")
        return said.log_softmax(1)[:, self.level]


@torch.no_grad()
def minority_score(denoiser: Denoises, x0: Tensor, place: float = 0.5, draws: int = 5, cond: Any = None, seed: int = 0,
                   distance: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:  # fmt: skip
    """MS [B] of samples [B, ...] at the flow time `place`, each sample with the same noise wherever it stands in a batch.

    distance: of two batches, [B]; None: the root mean square of the difference. The level is what the score is about: little
    noise measures what is unusual within a mode, much noise the distance of modes from the mean.
    """
    if not 0 < place < 1 or draws < 1:
        raise OrnsteinError(f"minority_score(place={place}, draws={draws})", "Give a flow time in (0, 1), and a draw.")
    t = denoiser.process.time(2 * torch.tensor((1 - place) / place, dtype=torch.float64).log())
    far = distance or (lambda a, b: (a - b).square().flatten(1).mean(1).sqrt())
    source, total = NoiseSource.of(seed, [0]).gather(torch.zeros(len(x0), dtype=torch.long)), 0
    for k in range(draws):
        x = denoiser.process.corrupt(x0, source.draw(k, x0), t)
        total = total + far(x0, denoiser(x, t, cond, Clock(step=k, t=t, ids=tuple(range(len(x0))))).x0)
    return total / draws


def quantiles(scores: Tensor, levels: int = 10) -> Tensor:
    """Scores [N] -> which of `levels` equally filled classes each is in, int [N], the last the highest."""
    if levels < 2 or len(scores) < levels:
        raise OrnsteinError(f"{levels} levels of {len(scores)} scores", "Give at least 2, and a score for each.")
    rank = torch.empty(len(scores), dtype=torch.long)
    rank[scores.argsort(stable=True)] = torch.arange(len(scores))
    return rank * levels // len(scores)


def learn_levels(process: Process, x0: Tensor, levels: Tensor, steps: int = 400, width: int = 64, batch: int = 128,
                 rate: float = 5e-3, std: float = 0.5, seed: int = 0) -> nn.Module:  # fmt: skip
    """A predictor of the levels int [N] of samples [N, ...] from their noisy states, for Minority; for small samples."""
    net, source = NoisyMLP(x0[0].numel(), int(levels.max()) + 1, width, seed), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        rows = torch.randint(len(x0), (batch,), generator=source)
        x, at, place = noised(process, x0[rows].float(), 0.0, 1.0, source)
        return F.cross_entropy(net(scaled(x, at, std), place), levels[rows])

    fit(net.parameters(), loss, steps, rate)
    return net.eval().requires_grad_(False)
