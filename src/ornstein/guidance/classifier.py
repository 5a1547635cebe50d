"""Classifier guidance: the gradient of a classifier's log-probability, of one trained on noise or of any as it is.

Diffusion Models Beat GANs on Image Synthesis, Prafulla Dhariwal, Alex Nichol, 2021, arXiv:2105.05233 (section 4):
score + w grad log p(y | x_t). Elucidating The Design Space of Classifier-Guided Diffusion Generation, Jiajun Ma, Tianyang Hu,
Wenjia Wang, Jiacheng Sun, 2023, arXiv:2310.11311 (EluCD): a classifier f of clean data, asked about the predicted x0 and
differentiated with respect to it alone, with ReLU replaced by softplus(beta .)/beta, the target

    tau1 f_y - log sum_k exp(tau2 f_k)        (tau2 = tau1: log p(y | x); tau2 = 0: the joint logit)

and the weight Sigma_t + gamma sin(pi t / T) max Sigma. Here Sigma is r^2 of layers/gradient and t/T the flow time s/(a+s).
Costs the classifier, forward and backward; with through='xt' also the network's backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels

from .layers.contrast import ALWAYS
from .layers.gradient import check, guided, labelled, needs, places, spread

__all__ = ["Classifier", "calibration_error"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """x0 moved by strength times the gradient of the log-probability of the run's label."""

    classifier: Callable | None = None  # (x0 [B, ...]) -> logits [B, K]; where through='noisy': (x_t, flow time [B]) -> logits
    strength: float = 0.0  # w; 0 = off, 1: Bayes' rule where the classifier is exact on noise
    through: str = "x0"  # 'x0', 'xt' (through the network) or 'noisy', a classifier that was trained on noise
    marginal: float = 1.0  # tau2, with tau1 = 1; EluCD: 0.5 (DDPM) and 0 (EDM)
    beta: float = inf  # of the softplus in place of ReLU; inf: as it is. EluCD: 3 to 5
    sine: float = 0.0  # gamma, with through='x0'; EluCD: 0.3
    std: float = 0.5  # standard deviation of the data, for r^2
    label: str = "label"  # name of the condition [B] that holds the class
    unit: bool = False  # gradients of unit length
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s), (low, high]: 0 data, 1 noise

    def __post_init__(self) -> None:
        check(self.strength, self.through, self.std, self.interval)
        if self.strength != 0:
            needs(self.classifier, "classifier guidance", "classifier=, a function of clean samples to logits [B, K]")
        if not self.beta > 0 or (self.sine != 0 and self.through != "x0"):
            raise OrnsteinError(f"Classifier(beta={self.beta}, sine={self.sine}, through='{self.through}')",
                                "beta is above 0; the sine belongs to through='x0'.")  # fmt: skip

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict with the label int [B]."""
        if self.strength == 0:
            return denoiser(x, t, cond, clock)
        if not isinstance(cond, dict) or self.label not in cond:
            raise OrnsteinError(f"classifier guidance finds no condition '{self.label}'",
                                "Give the run a condition of that name, int [B], or label=.")  # fmt: skip
        return guided(denoiser, x, t, cond, clock, self.log_density, self.strength, self.through, self.std, self.interval,
                      self.unit, self._factor if self.sine else None)  # fmt: skip

    def log_density(self, x: Tensor, levels: Levels, cond: Any) -> Tensor:
        """f_y - log sum exp (tau2 f), [B]; 0 for a row whose label the classifier does not know, such as 'no label'."""
        logits = self.logits(x, levels)
        return labelled(logits - (self.marginal * logits).logsumexp(1, keepdim=True), cond[self.label])

    def logits(self, x: Tensor, levels: Levels) -> Tensor:
        """What the classifier says, [B, K], with its activations smoothed."""
        told = (places(levels, x),) if self.through == "noisy" else ()
        if self.beta == inf:
            return self.classifier(x, *told)
        with _Smooth(self.beta) as smooth:
            said = self.classifier(x, *told)
        if not smooth.seen:
            raise OrnsteinError("the classifier has no ReLU to smooth", "Leave beta at inf.")
        return said

    def _factor(self, levels: Levels) -> Tensor:
        """(Sigma + gamma sin(pi t / T) max Sigma) / Sigma."""
        return 1 + self.sine * self.std**2 * (pi * levels.flow_time).sin() / spread(levels, self.std)


class _Smooth(TorchFunctionMode):
    """Every ReLU that is called inside, of a module or of a function, is a softplus."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta, self.seen = beta, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, F.relu_):
            self.seen += 1
            return F.softplus(args[0], self.beta)
        return func(*args, **(kwargs or {}))


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Expected calibration error of logits [N, K] against labels [N]: mean distance of confidence and accuracy, 0 to 1."""
    sure, said = logits.double().softmax(1).max(1)
    right = (said == labels).double()
    place = (sure * bins).long().clamp_max(bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, sure - right)
    return float(gaps.abs().sum() / len(labels))
