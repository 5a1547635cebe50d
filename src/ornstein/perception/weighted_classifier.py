"""Weighted diffusion classifier: a diffusion classifier whose timesteps count as a few labelled samples teach it.

Diffusion Classifiers Understand Compositionality, but Conditions Apply, Yujin Jeong, Arnas Uselis, Seong Joon Oh, Anna
Rohrbach, 2025, arXiv:2505.17955: argmin_c sum_k w(t_k) |eps_k - eps(x_t_k, t_k, c)|^2 with the weights learned from the
errors of a small labelled split. Here w is the exponential of a polynomial in the place u of a time in its range,

    w(u) = exp(sum_{d=1}^{D} a_d T_d(2u - 1)), of mean 1 over the pairs,   T_d Chebyshev's polynomials,

and a with a scale b minimises the cross-entropy of softmax_c(-b sum_k w_k e_kc) plus `decay` |a|^2, so that with no
labels all weights are 1. Costs labels x pairs network rows a sample, and as much for each sample learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.artefact import Artefact, describe
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, running

from .layers.pairs import Pairs, Verdicts, places

__all__ = ["WeightedClassifier", "fit"]

KIND = "weighted_classifier"


@dataclass(frozen=True)
class WeightedClassifier:
    """The settings of `learned` win over those given here."""

    learned: str | Path | Artefact = ""  # what `fit` made, or its file; "": even weights, the plain diffusion classifier
    pairs: int = 16  # times and noises tried
    times: str = "logsnr"  # 'logsnr': uniform there; 'uniform' in t
    logsnr: tuple[float, float] = (-10.0, 10.0)  # range for 'logsnr', in nats; noise to data
    seed: int = 0
    found: Artefact | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.learned:
            found = self.learned if isinstance(self.learned, Artefact) else Artefact.load(self.learned, KIND)
            if found.kind != KIND:
                raise OrnsteinError(f"the artefact is of '{found.kind}', not of '{KIND}'", "Give what `fit` made.")
            settings = {**found.settings, "logsnr": tuple(found.settings["logsnr"])}
            for name, value in {**settings, "found": found}.items():
                object.__setattr__(self, name, value)
        if self.pairs < 1:
            raise OrnsteinError(f"pairs={self.pairs}", "Give at least one.")
        self._pairs()

    def _pairs(self) -> Pairs:
        return Pairs(self.pairs, self.times, self.logsnr, True, self.seed)

    def weights(self) -> Tensor:
        """[pairs], float64, of mean 1, in the order of the pairs."""
        if self.found is None:
            return torch.ones(self.pairs, dtype=torch.float64)
        return _weights(self.found.arrays["coefficients"].double(), self.pairs)

    @torch.no_grad()
    def record(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: Sequence[int] | None = None) -> Tensor:
        """Every squared error [pairs, B, J], float64."""
        ids, many = tuple(range(len(x))) if ids is None else tuple(ids), len(next(iter(conditions.values())))
        pairs, tried = self._pairs(), torch.ones(len(x), many, dtype=torch.bool, device=x.device)
        times = pairs.at(denoiser.process)
        return torch.stack([pairs.errors(denoiser, x, conditions, tried, float(t), k, ids) for k, t in enumerate(times)])

    def __call__(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: Sequence[int] | None = None,
                 run: Run | None = None) -> Verdicts:  # fmt: skip
        """x: data [B, ...]; conditions: tensors of J rows, one per candidate. log_odds are the learned ones, or in nats."""
        if self.found is not None:
            self.found.check(denoiser)
        with running(run or Run()):
            each = self.record(denoiser, x, conditions, ids)
        errors = torch.einsum("k,kbj->bj", self.weights().to(each.device), each) / self.pairs
        span = self.logsnr[1] - self.logsnr[0]
        scale = 0.5 * span if self.found is None else float(self.found.arrays["scale"]) * self.pairs
        rows = self.pairs * each.shape[2]
        return Verdicts(errors.argmin(1), errors, (-scale * errors).log_softmax(1), rows, torch.full((len(x),), rows))


def _weights(coefficients: Tensor, count: int) -> Tensor:
    place = 2 * places(count) - 1
    angle = place.clamp(-1, 1).acos()  # T_d(cos a) = cos(d a)
    degrees = torch.arange(1, len(coefficients) + 1, dtype=torch.float64)
    return count * (torch.cos(angle[:, None] * degrees) @ coefficients).softmax(0)


def fit(denoiser: Denoises, x: Tensor, labels: Tensor, conditions: dict[str, Tensor], way: WeightedClassifier | None = None,
        degree: int = 4, decay: float = 0.01, steps: int = 200) -> Artefact:  # fmt: skip
    """Learn the weights from labelled samples: x [B, ...], labels [B] in 0..J-1; way: pairs, times and seed to learn for."""
    way = way or WeightedClassifier()
    if len(x) != len(labels) or not len(x):
        raise OrnsteinError(f"{len(labels)} labels for {len(x)} samples", "Give one for each, and at least one.")
    each, labels = way.record(denoiser, x, conditions).cpu(), labels.cpu()
    each = each - each.amin(2, keepdim=True)  # what all candidates share says nothing
    unit = float(each.mean()) or 1.0
    with torch.enable_grad():
        a, b = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((degree,), ()))
        optimiser = torch.optim.Adam([a, b], 0.05)
        for _ in range(steps):
            total = torch.einsum("k,kbj->bj", _weights(a, way.pairs), each) / (unit * way.pairs)
            loss = F.cross_entropy(-b.exp() * total, labels) + decay * a.square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    scale = b.detach().exp() / (unit * way.pairs)
    settings = {"pairs": way.pairs, "times": way.times, "logsnr": list(way.logsnr), "seed": way.seed}
    return Artefact(KIND, {"coefficients": a.detach(), "scale": scale}, settings, describe(denoiser))
