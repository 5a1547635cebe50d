"""Groups in the data that nobody named: found by how well a denoiser does on each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core.clock import Clock, NoiseSource
from ornstein.core.denoiser import Denoises

__all__ = ["losses", "split"]


@torch.no_grad()
def losses(denoiser: Denoises, x: Tensor, cond: dict | None, pairs: int, logsnr: tuple[float, float], seed: int) -> Tensor:
    """Squared error of the noise, mean over a sample and over `pairs` times uniform in logSNR: float64 [N]. x: [N, ...]."""
    process, ids, total = denoiser.process, tuple(range(len(x))), 0.0
    source, places = NoiseSource.of(seed, ids), (torch.arange(pairs, dtype=torch.float64) + 0.5) / pairs
    for k, t in enumerate(process.time(logsnr[0] + places * (logsnr[1] - logsnr[0])).tolist()):
        noise = source.draw(k, x)
        said = denoiser(process.corrupt(x, noise, t), t, cond, Clock(k, 0, pairs, t, "cond", ids))
        total = total + (said.noise - noise).double().flatten(1).square().mean(1)
    return total / pairs


@torch.enable_grad()
def split(loss: Tensor, groups: int, keep: float = 1.0, steps: int = 200, seed: int = 0) -> Tensor:
    """Weights [N, groups], rows of sum 1, that drive the groups' mean losses apart.

    Adam ascends std_g(sum_i W_ig l_i / sum_i W_ig) + keep min_g(sum_i W_ig l_i / sum_i l_i): the second term keeps each
    group from being empty. Group 0 has the lowest mean loss in the end.
    """
    if groups == 1:
        return torch.ones(len(loss), 1, dtype=torch.float64)
    loss = loss.detach().double().cpu() / loss.double().mean().cpu()
    start = torch.randn(len(loss), groups, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = (0.01 * start + torch.linspace(-0.1, 0.1, groups) * (loss - 1)[:, None]).requires_grad_()
    optimiser = torch.optim.Adam([logits], 0.05)
    for _ in range(steps):
        weights = logits.softmax(1)
        sums = (weights * loss[:, None]).sum(0)
        goal = (sums / weights.sum(0)).std() + keep * (sums / loss.sum()).min()
        optimiser.zero_grad()
        (-goal).backward()
        optimiser.step()
    weights = logits.detach().softmax(1)
    return weights[:, ((weights * loss[:, None]).sum(0) / weights.sum(0)).argsort()]
