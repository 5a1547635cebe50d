"""The short training that the evidence of losses shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import Denoiser
from ornstein.evidence._adam import Adam

__all__ = ["fit"]


def fit(loss: Callable[..., Any], denoiser: Denoiser, data: Tensor, generator: torch.Generator, steps: int,
        after: Callable[[int], None] = lambda k: None) -> None:  # fmt: skip
    """AdamW at 2e-3 falling to 0, batches of 64, gradients clipped to norm 1. after(k): called after each step."""
    parameters = list(denoiser.backbone.parameters())
    optimiser = Adam(parameters, 2e-3, (0.9, 0.99), decay=0.01)
    for k in range(steps):
        optimiser.lr = 2e-3 * min(1.0, (k + 1) / 30) * (1 - k / steps) ** 0.5
        u = (torch.randperm(64, generator=generator) + torch.rand(64, generator=generator)) / 64
        batch = {"x0": data[torch.randint(len(data), (64,), generator=generator)], "u": u}
        loss(denoiser, batch, generator, k)["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        after(k)
