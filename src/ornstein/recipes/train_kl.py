"""Train a KL autoencoder on any pictures: |x - x'| + kl * KL(q || N(0, 1)), then measure its latents and its error.

Rombach et al., 2021, arXiv:2112.10752, section 3.1, without the perceptual and adversarial terms (which need other
networks). Both terms are means over elements. Everything random follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.codecs.kl import KL
from ornstein.core.errors import OrnsteinError

__all__ = ["train_kl", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast."""

    steps: int = 2000
    batch: int = 32
    lr: float = 2e-3  # AdamW, linear warm-up over a twentieth, cosine to a tenth
    kl: float = 1e-4  # weight of the KL term, mean over latent elements
    seed: int = 0


def train_kl(images: Tensor, codec: KL | None = None, recipe: Recipe | None = None, held_out: Tensor | None = None,
             progress: Callable[[int, int, float], None] | None = None) -> KL:  # fmt: skip
    """images: [N, C, H, W] in [-1, 1]; codec: a fresh KL to train, by default KL(C). Hands it back measured and frozen.

    held_out: pictures for the stated error (default: the training pictures). progress(step, steps, loss).
    """
    recipe = recipe or Recipe()
    if images.ndim != 4 or len(images) < 2 or not bool(images.isfinite().all()):
        raise OrnsteinError(f"cannot train a codec on {tuple(images.shape)}", "Give 2 or more finite pictures.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        codec = KL(images.shape[1]) if codec is None else codec
    codec.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(codec.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    pick = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * _share(step, recipe.steps)
        x = images[torch.randint(len(images), (recipe.batch,), generator=pick)]
        mean, log_variance = codec.posterior(x)
        u = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=pick).to(mean)
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        loss = (codec.decoder(u) - x).abs().mean() + recipe.kl * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if progress:
            progress(step + 1, recipe.steps, float(loss))
    return codec.eval().requires_grad_(False).measure(images, held_out)


def _share(step: int, steps: int) -> float:
    """Of the learning rate: linear rise, then a cosine down to a tenth."""
    rise = max(1, steps // 20)
    turn = torch.tensor(torch.pi * max(0, step - rise) / max(1, steps - rise))
    return min(1.0, (step + 1) / rise) * float(0.55 + 0.45 * turn.cos())
