"""Unmasking: ancestral sampling of discrete diffusion, each token from the posterior at what the network says of it.

Structured Denoising Diffusion Models in Discrete State-Spaces, Austin et al., 2021, arXiv:2107.03006 (eq. 4); for masked
tokens MDLM, Sahoo et al., 2024, arXiv:2406.07524 (eq. 7):

    x_s ~ Cat( sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t) ), every token by itself.

Tokens that come to light in one step are drawn independently of each other: that is the only error, and it goes with the
number of steps. 'confidence': as many as the schedule says, the surest first, MaskGIT, Chang et al., 2022,
arXiv:2202.04200 (section 3.2), which follows no known law. Costs one network call per step. Chances are reckoned in
float64: in single precision and below a drawn Gumbel noise is cut off, which acts like a lower temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource, pick_token
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate

__all__ = ["Unmask"]

CHOICES = ("chance", "confidence")


@dataclass(frozen=True)
class Unmask:
    """For processes with posterior(x, chances, t, s), such as 'masked'. 'chance' has the process's own law."""

    choose: str = "chance"  # which tokens come to light: by chance, or by confidence
    spread: float = 0.0  # of 'confidence': Gumbel noise on the log chance, in nats, falling with the hidden share to 0

    order: ClassVar[int] = 0
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise unknown("choice of tokens", self.choose, CHOICES)
        if self.spread < 0 or (self.spread and self.choose == "chance"):
            raise OrnsteinError(f"spread={self.spread} with choose={self.choose}", "It is for 'confidence', 0 or more.")

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        if x.is_floating_point():
            raise OrnsteinError(f"unmask cannot start from {x.dtype}", "It samples tokens: use a discrete process.")
        return {"noise": noise, "k": 0}

    def step(self, denoise: Evaluate, process: Any, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        """x: tokens [B, ...]."""
        chances = denoise(x, t).logits.double().softmax(-1)
        u = memory["noise"].uniform(memory["k"], (2, *x.shape[1:]), x.device)
        if self.choose == "chance":
            x = pick_token(process.posterior(x, chances, t, s), u[:, 0])
        else:
            x = self._surest(process, x, chances, u, process.stay(x, t, s), process.at(s, x).s)
        return x, memory | {"k": memory["k"] + 1}

    def _surest(self, process: Any, x: Tensor, chances: Tensor, u: Tensor, stay: Tensor, left: Tensor) -> Tensor:
        """Of each row's hidden tokens as many as are expected to, rounded down, stay hidden: those of least confidence."""
        said, hidden = pick_token(chances, u[:, 0]), x == process.mask
        sure = chances.gather(-1, said[..., None])[..., 0].clamp_min(1e-300).log()
        sure = sure - self.spread * left * (-u[:, 1].log()).log()
        sure = sure.masked_fill(~hidden, torch.inf).flatten(1)
        keep = ((hidden * stay.double()).flatten(1).sum(1, keepdim=True) + 1e-4).floor()
        rank = sure.argsort(stable=True, dim=1).argsort(1)
        return torch.where(hidden & (rank >= keep).reshape(x.shape), said, x)
