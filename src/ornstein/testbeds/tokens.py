"""The exact denoiser of a finite set of token sequences under masked diffusion: ground truth for discrete sampling.

p(x) = sum_i w_i prod_j [ (1 - flip) 1(x_j = d_ij) + flip / K ]: one of the sequences d_i, each of whose tokens is replaced by
any of the K with the chance `flip`. Given what is seen of x_t, the posterior of i and of every hidden token is closed, and
does not depend on t (Ou et al., 2024, arXiv:2406.03736, theorem 1). Costs N x L x K per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

__all__ = ["Tokens"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A denoiser like any other, which says logits (log chances) float64 [B, ..., K] of tokens [B, ...].

    cond: None, or {"label": int [B]}: only the data of that label; `null` stands for all of it. Where nothing in the data
    agrees with what is seen and flip = 0, what agrees in most tokens counts: the limit of a small flip.
    """

    data: Tensor  # int64 [N, ...]
    process: Any  # processes/masked
    weights: Tensor | None = None  # [N], of any sum; None: equal
    labels: Tensor | None = None  # int [N]
    flip: float = 0.0  # chance that a token is replaced by any of the K

    def __post_init__(self) -> None:
        if len(self.data) == 0 or self.data.is_floating_point():
            raise OrnsteinError("the data are no tokens", "Give whole numbers [N, ...], at least one row.")
        if not 0 <= int(self.data.min()) <= int(self.data.max()) < self.process.tokens:
            raise OrnsteinError(f"tokens outside 0..{self.process.tokens - 1}", "Give the process more tokens.")
        for name in ("weights", "labels"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.data):
                raise OrnsteinError(f"{len(given)} {name} for {len(self.data)} data", "Give one per datum.")

    @property
    def null(self) -> int:
        """The label that stands for all data: one more than the largest."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @property
    def law(self) -> Tensor:
        """The weights [N], float64, of sum 1: the law of a sample where flip = 0 and no two data are the same."""
        weights = torch.ones(len(self.data)) if self.weights is None else self.weights
        return weights.double() / weights.double().sum()

    def unconditional(self, cond: Any, batch: int) -> dict[str, Tensor]:
        return {"label": torch.full((batch,), self.null)}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None) -> Prediction:
        K = self.process.tokens
        chances = self.posterior(x, cond) @ F.one_hot(self.data, K).double().flatten(1)  # [B, L K]
        chances = (1 - self.flip) * chances + self.flip / K
        return Prediction(x, self.process.at(t, x), "logits", chances.clamp_min(1e-30).log().reshape(*x.shape, K))

    def posterior(self, x: Tensor, cond: Any = None) -> Tensor:
        """Chance [B, N] of each datum given the tokens that are seen in x [B, ...]."""
        return self._joint(x, cond).softmax(1)

    def log_density(self, x: Tensor, cond: Any = None) -> Tensor:
        """log p [B] of the tokens that are seen in x, summed over those that are hidden."""
        return self._joint(x, cond).logsumexp(1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n fresh samples of the data's law, int64 [n, ...]."""
        source = torch.Generator().manual_seed(seed)
        x = self.data[torch.multinomial(self.law, n, replacement=True, generator=source)]
        other = torch.randint(self.process.tokens, x.shape, generator=source)
        return torch.where(torch.rand(x.shape, generator=source) < self.flip, other, x)

    def which(self, x: Tensor) -> Tensor:
        """The index [B] of the datum that x [B, ...] is, token for token; N where it is none."""
        same = (x[:, None] == self.data).flatten(2).all(2)
        return torch.where(same.any(1), same.to(torch.uint8).argmax(1), len(self.data))

    def distance(self, x: Tensor) -> float:
        """Total variation between the samples' frequencies and the law, where flip = 0: 0 to 1."""
        found = torch.bincount(self.which(x), minlength=len(self.data) + 1).double() / len(x)
        return float((found - F.pad(self.law, (0, 1))).abs().sum() / 2)

    def _joint(self, x: Tensor, cond: Any) -> Tensor:
        """log of weight and likelihood of what is seen, [B, N]."""
        if x.shape[1:] != self.data.shape[1:]:
            what = f"a sample of shape {tuple(x.shape[1:])} for data of shape {tuple(self.data.shape[1:])}"
            raise OrnsteinError(what, "Give samples shaped as the data.")
        K, seen = self.process.tokens, (x != self.process.mask)[:, None]
        right = (seen & (x[:, None] == self.data)).flatten(2).sum(2)
        wrong = seen.flatten(2).sum(2) - right
        miss = math.log(max(self.flip / K, 1e-300))
        joint = self.law.log() + right * math.log1p(-self.flip * (1 - 1 / K)) + wrong * miss
        label = torch.full((len(x),), self.null) if cond is None else cond["label"]
        own = torch.full((len(self.data),), -1) if self.labels is None else self.labels
        allowed = (label[:, None] == own) | (label[:, None] == self.null)
        if not bool(allowed.any(1).all()):
            raise OrnsteinError("a label has no data", f"{self.null} stands for no label.")
        share = torch.where(allowed, self.law, 0.0).sum(1, keepdim=True)  # of the label, for the law given it
        return joint.masked_fill(~allowed, -torch.inf) - share.log()
