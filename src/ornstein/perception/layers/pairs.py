"""Candidates tried on noised samples: the pairs (time, noise), and how far off each candidate's answer is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import unknown
from ornstein.core.process import Process
from ornstein.core.seam import gather

__all__ = ["TIMES", "Pairs", "Verdicts", "places"]

TIMES = ("logsnr", "uniform")


@dataclass(frozen=True)
class Verdicts:
    """Of B samples and J candidates."""

    label: Tensor  # int [B], index of the best candidate
    errors: Tensor  # [B, J], squared error of the noise, summed over a sample, mean over pairs; inf where dropped
    log_odds: Tensor  # [B, J], log p(candidate | x) where times='logsnr', with even weights; -inf where dropped
    rows: int  # network rows spent on the dearest sample
    spent: Tensor | None = None  # int [B], network rows spent on each sample


def places(count: int) -> Tensor:
    """[count] in (0, 1), float64. Multiples of the golden ratio: however many come first, they are spread evenly."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) * ((5**0.5 - 1) / 2)) % 1


@dataclass(frozen=True)
class Pairs:
    """`count` pairs, the same for every sample's candidates."""

    count: int
    times: str = "logsnr"  # 'logsnr': uniform there; 'uniform' in t
    logsnr: tuple[float, float] = (-10.0, 10.0)  # range for 'logsnr', in nats; noise to data
    shared: bool = True  # one noise for all candidates
    seed: int = 0

    def __post_init__(self) -> None:
        if self.times not in TIMES:
            raise unknown("choice of times", self.times, TIMES)

    def at(self, process: Process) -> Tensor:
        """The times [count], float64."""
        u = places(self.count)
        if self.times == "uniform":
            return process.t_min + u * (process.t_max - process.t_min)
        return process.time(self.logsnr[0] + u * (self.logsnr[1] - self.logsnr[0]))

    def errors(self, denoiser: Denoises, x: Tensor, conditions: dict, tried: Tensor, t: float, k: int,
               ids: tuple) -> Tensor:  # fmt: skip
        """|eps - eps(x_t, t, c)|^2 of pair k where `tried`, bool [B, J], else 0: float64 [B, J].

        x: data [B, ...]; conditions: tensors of J rows. The network gets the tried rows alone."""
        rows, label = tried.nonzero(as_tuple=True)
        source, many = NoiseSource.of(self.seed, ids), tried.shape[1]
        if self.shared:
            noise = source.draw(k, x)[rows]
        else:
            noise = torch.stack([source.draw(k * many + j, x) for j in range(many)], 1)[rows, label]
        noisy = denoiser.process.corrupt(x[rows], noise, t)
        clock = Clock(k, 0, self.count, t, "cond", tuple((ids[r], c) for r, c in zip(rows.tolist(), label.tolist())))
        said = denoiser(noisy, t, gather(conditions, label, many), clock)
        off = (said.noise - noise).double().flatten(1).square().sum(1)
        return torch.zeros(tried.shape, dtype=torch.float64, device=x.device).index_put((rows, label), off)
