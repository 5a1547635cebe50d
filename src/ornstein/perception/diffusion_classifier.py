"""Diffusion classifier: the label under which a noised sample is denoised best.

Your Diffusion Model is Secretly a Zero-Shot Classifier, Alexander C. Li, Mihir Prabhudesai, Shivam Duggal, Ellis
Brown, Deepak Pathak, 2023, arXiv:2303.16203 (algorithms 1 and 2): argmin_c mean_k |eps_k - eps(x_t_k, t_k, c)|^2 over
pairs (t_k, eps_k) that all labels share; hopeless labels are dropped in stages. Costs labels x pairs network rows a
sample, fewer by elimination. Over times uniform in logSNR, log p(x|c) = const - 1/2 int |eps - eps(x)|^2 dlogSNR, so
that the limit is the Bayes classifier. `margin` also lets each sample drop a label as soon as its excess d over the
leader, taken pair by pair, is beyond doubt (successive elimination, Even-Dar, Mannor, Mansour, 2006, with a normal
bound): mean(d) > margin std(d) / sqrt(k), and stop when one is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Run, running

from .layers.pairs import Pairs, Verdicts

__all__ = ["DiffusionClassifier", "Verdicts"]


@dataclass(frozen=True)
class DiffusionClassifier:
    """stages: (pairs so far, candidates that go on); pairs rise, candidates fall to 1 after the last."""

    stages: Sequence[tuple[int, int]] = ((25, 5), (100, 1))
    times: str = "logsnr"  # 'logsnr': uniform there, which converges to Bayes; 'uniform' in t: as published
    logsnr: tuple[float, float] = (-10.0, 10.0)  # range for 'logsnr', in nats; noise to data
    shared: bool = True  # one noise for all candidates; False only to see what sharing is worth
    seed: int = 0
    margin: float = 0.0  # standard errors behind the leader at which a candidate is dropped; 0: by stages alone
    least: int = 5  # pairs before the margin is asked for the first time

    def __post_init__(self) -> None:
        self._pairs()
        pairs, keep = ([row[i] for row in self.stages] for i in (0, 1))
        if pairs != sorted(set(pairs)) or keep != sorted(set(keep), reverse=True) or keep[-1] != 1 or pairs[0] < 1:
            raise OrnsteinError(
                f"stages {tuple(self.stages)}", "Pairs must rise, candidates fall, and the last must keep 1."
            )
        if self.margin < 0 or self.least < 2 or (self.margin and not self.shared):
            raise OrnsteinError(f"margin={self.margin}, least={self.least}, shared={self.shared}",
                                "Give a margin of 0 or more standard errors of shared pairs, of at least 2.")  # fmt: skip

    def _pairs(self) -> Pairs:
        return Pairs(self.stages[-1][0], self.times, self.logsnr, self.shared, self.seed)

    def _times(self, denoiser: Denoises) -> Tensor:
        return self._pairs().at(denoiser.process)

    @torch.no_grad()
    def __call__(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: Sequence[int] | None = None,
                 run: Run | None = None) -> Verdicts:  # fmt: skip
        """x: data [B, ...]; conditions: tensors of J rows, one per candidate; all candidates are tried on each sample.
        run: collects the record and what plugins remember."""
        with running(run or Run()):
            return self._judge(denoiser, x, conditions, tuple(range(len(x))) if ids is None else tuple(ids))

    def _judge(self, denoiser: Denoises, x: Tensor, conditions: dict[str, Tensor], ids: tuple) -> Verdicts:
        many, pairs = len(next(iter(conditions.values()))), self._pairs()
        times, keep = pairs.at(denoiser.process), dict(self.stages)
        left = torch.ones(len(x), many, dtype=torch.bool, device=x.device)
        total = torch.zeros(len(x), many, dtype=torch.float64, device=x.device)
        seen: list[Tensor] = []
        spent, done = torch.zeros(len(x), dtype=torch.long, device=x.device), torch.zeros_like(left[:, :1])
        mean = total
        for k in range(pairs.count):
            tried = left & ~done
            if not bool(tried.any()):
                break
            seen.append(pairs.errors(denoiser, x, conditions, tried, float(times[k]), k, ids))
            spent, total = spent + tried.sum(1), total + seen[-1]
            mean = torch.where(tried, total / (k + 1), torch.where(done, mean, torch.inf))
            if keep.get(k + 1, 0) > 1:
                order = mean.argsort(dim=1, stable=True).argsort(dim=1)
                left = left & (done | (order < keep[k + 1]))
            often = max(1, (k + 1) // 10)  # the excess is gone through anew each time
            if self.margin and self.least <= k + 1 < pairs.count and (k + 1) % often == 0:
                left = left & (done | ~self._beaten(torch.stack(seen), left, mean))
            done = left.sum(1, keepdim=True) == 1 if self.margin else done
        errors = torch.where(left, mean, torch.inf)
        odds = (-0.5 * (self.logsnr[1] - self.logsnr[0]) * errors).log_softmax(1)
        return Verdicts(errors.argmin(1), errors, odds, int(spent.max()) if len(x) else 0, spent)

    def _beaten(self, seen: Tensor, left: Tensor, mean: Tensor) -> Tensor:
        """Who is behind the leader by more than the margin, bool [B, J]; seen: errors [pairs, B, J]."""
        leader = torch.where(left, mean, torch.inf).argmin(1)
        excess = seen - seen.gather(2, leader[None, :, None].expand(len(seen), -1, 1))
        return excess.mean(0) > self.margin * excess.std(0) / len(seen) ** 0.5
