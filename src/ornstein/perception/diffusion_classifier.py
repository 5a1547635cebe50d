"""Diffusion classifier: the label under which a noised sample is denoised best.

Your Diffusion Model is Secretly a Zero-Shot Classifier, Alexander C. Li, Mihir Prabhudesai, Shivam Duggal, Ellis
Brown, Deepak Pathak, 2023, arXiv:2303.16203 (algorithms 1 and 2): argmin_c mean_k |eps_k - eps(x_t_k, t_k, c)|^2 over
pairs (t_k, eps_k) that all labels share; hopeless labels are dropped in stages. Costs labels x pairs network rows a
sample, fewer by elimination. Over times uniform in logSNR, log p(x|c) = const - 1/2 int |eps - eps(x)|^2 dlogSNR, so
that the limit is the Bayes classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.seam import Run, gather, running

__all__ = ["DiffusionClassifier", "Verdicts"]


@dataclass(frozen=True)
class Verdicts:
    """Of B samples and J candidates."""

    label: Tensor  # int [B], index of the best candidate
    errors: Tensor  # [B, J], squared error of the noise, summed over a sample, mean over pairs; inf where dropped
    log_odds: Tensor  # [B, J], log p(candidate | x) where times='logsnr'; -inf where dropped
    rows: int  # network rows spent on one sample


@dataclass(frozen=True)
class DiffusionClassifier:
    """stages: (pairs so far, candidates that go on); pairs rise, candidates fall to 1 after the last."""

    stages: Sequence[tuple[int, int]] = ((25, 5), (100, 1))
    times: str = "logsnr"  # 'logsnr': uniform there, which converges to Bayes; 'uniform' in t: as published
    logsnr: tuple[float, float] = (-10.0, 10.0)  # range for 'logsnr', in nats; noise to data
    shared: bool = True  # one noise for all candidates; False only to see what sharing is worth
    seed: int = 0

    def __post_init__(self) -> None:
        if self.times not in ("logsnr", "uniform"):
            raise unknown("choice of times", self.times, ("logsnr", "uniform"))
        pairs, keep = ([row[i] for row in self.stages] for i in (0, 1))
        if pairs != sorted(set(pairs)) or keep != sorted(set(keep), reverse=True) or keep[-1] != 1 or pairs[0] < 1:
            raise OrnsteinError(
                f"stages {tuple(self.stages)}", "Pairs must rise, candidates fall, and the last must keep 1."
            )

    @torch.no_grad()
    def __call__(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: Sequence[int] | None = None,
                 run: Run | None = None) -> Verdicts:  # fmt: skip
        """x: data [B, ...]; conditions: tensors of J rows, one per candidate; all candidates are tried on each sample.
        run: collects the record and what plugins remember."""
        with running(run or Run()):
            return self._judge(denoiser, x, conditions, ids)

    def _judge(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: Sequence[int] | None) -> Verdicts:
        many, ids = len(next(iter(conditions.values()))), tuple(range(len(x))) if ids is None else tuple(ids)
        times, left = self._times(denoiser), torch.arange(many, device=x.device).expand(len(x), many)
        total = torch.zeros(len(x), many, dtype=torch.float64, device=x.device)
        done = rows = 0
        for pairs, keep in self.stages:
            for k in range(done, pairs):
                total = total.scatter_add(
                    1, left, self._errors(denoiser, x, conditions, left, float(times[k]), k, many, ids)
                )
            rows, done = rows + (pairs - done) * left.shape[1], pairs
            mean = total.gather(1, left) / done
            if keep > 1:
                left = left.gather(1, mean.argsort(dim=1, stable=True)[:, :keep].sort(1).values)
        errors = torch.full_like(total, torch.inf).scatter(1, left, mean)
        return Verdicts(
            errors.argmin(1), errors, (-0.5 * (self.logsnr[1] - self.logsnr[0]) * errors).log_softmax(1), rows
        )

    def _times(self, denoiser: Denoises) -> Tensor:
        """One per pair, float64. Multiples of the golden ratio: however many come first, they are spread evenly."""
        process, n = denoiser.process, self.stages[-1][0]
        u = ((torch.arange(n, dtype=torch.float64) + 0.5) * ((5**0.5 - 1) / 2)) % 1
        if self.times == "uniform":
            return process.t_min + u * (process.t_max - process.t_min)
        return process.time(self.logsnr[0] + u * (self.logsnr[1] - self.logsnr[0]))

    def _errors(self, denoiser: Denoises, x: Tensor, conditions: dict, left: Tensor, t: float, k: int, many: int,
                ids: tuple) -> Tensor:  # fmt: skip
        """|eps - eps(x_t, t, c)|^2 of each sample and candidate still in, float64 [B, left]."""
        batch, each = left.shape
        source, rows = NoiseSource.of(self.seed, ids), torch.arange(batch, device=x.device).repeat_interleave(each)
        if self.shared:
            noise = source.draw(k, x)[rows]
        else:
            noise = torch.stack([source.draw(k * many + j, x) for j in range(many)], 1)[rows, left.flatten()]
        noisy, label = denoiser.process.corrupt(x[rows], noise, t), left.flatten()
        clock = Clock(
            k, 0, self.stages[-1][0], t, "cond", tuple((ids[r], c) for r, c in zip(rows.tolist(), label.tolist()))
        )
        said = denoiser(noisy, t, gather(conditions, label, many), clock)
        return (said.noise - noise).double().flatten(1).square().sum(1).reshape(batch, each)
