"""Masked cross entropy: a bound on the negative log-likelihood of masked diffusion, at a random time.

Simple and Effective Masked Diffusion Language Models, Sahoo et al., 2024, arXiv:2406.07524 (eq. 10); Simplified and
Generalized Masked Diffusion for Discrete Data, Shi et al., 2024, arXiv:2406.04329 (eq. 4):

    -log p(x_0) <= integral over t of -alpha'(t) / (1 - alpha(t)) E sum over hidden j of -log p(x_0j | x_t).

With the true conditionals the bound is met. 'uniform' is the plain cross entropy of the hidden tokens per token, without the
weight: MaskGIT, Chang et al., 2022, arXiv:2202.04200 (eq. 1). One forward and one backward pass of the network per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError, unknown

__all__ = ["MaskedCrossEntropy"]

WEIGHTS = ("nelbo", "uniform")


@dataclass(frozen=True)
class MaskedCrossEntropy:
    """Called as loss(denoiser, batch, generator, step) -> {'loss', 'masked'}, nats per token, hidden or not."""

    weight: str = "nelbo"  # nelbo: the bound; uniform: no weight
    drop_condition: float = 0.0  # share of samples trained with the null condition, for guidance

    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise unknown("loss weight", self.weight, WEIGHTS)
        if not 0 <= self.drop_condition <= 1:
            raise OrnsteinError(f"drop_condition={self.drop_condition} is no share", "Give 0 to 1.")

    def __call__(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None = None,
                 step: int = 0) -> dict[str, Tensor]:  # fmt: skip
        """batch: 'x0' tokens [B, ...]; 'cond'; and what is random, drawn from the generator where it is not there: 'u' [B] in
        (0, 1) or 't' [B], 'noise' normal like x0, 'drop' [B] in (0, 1)."""
        x0, process = batch["x0"], denoiser.process

        def uniform(name: str) -> Tensor:
            return batch[name] if name in batch else torch.rand(len(x0), generator=generator).to(x0.device)

        noise = batch["noise"] if "noise" in batch else torch.randn(x0.shape, generator=generator).to(x0.device)
        t = batch["t"] if "t" in batch else self.times(uniform("u"), process)
        cond = batch.get("cond")
        if self.drop_condition and cond is not None:
            gone = uniform("drop") < self.drop_condition
            null = denoiser.unconditional(cond, len(gone))
            cond = {k: torch.where(gone.view(-1, *[1] * (v.ndim - 1)), null[k].to(v), v) for k, v in cond.items()}
        said = denoiser(process.corrupt(x0, noise, t), t, cond)
        loss = self.per_sample(said, x0, noise).mean()
        return {"loss": loss, "masked": loss}

    def times(self, u: Tensor, process: Any) -> Tensor:
        """Uniform in [t_min, t_max]; the bound leaves out what lies below t_min."""
        return process.t_min + u * (process.t_max - process.t_min)

    def per_sample(self, said: Any, x0: Tensor, noise: Tensor) -> Tensor:
        """[B]: the mean over each sample's tokens. The mask is the number past the last that there is a logit for."""
        logits, L = said.logits.float() if said.logits.dtype != torch.float64 else said.logits, said.levels
        error = F.cross_entropy(logits.flatten(0, -2), x0.flatten(), reduction="none").reshape(x0.shape)
        error = error * (said.x == logits.shape[-1])
        if self.weight == "nelbo":
            error = error * (L.ds / L.s)  # -alpha' / (1 - alpha)
        return error.flatten(1).mean(1)
