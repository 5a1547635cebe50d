"""A mixture of low-rank Gaussians under any Gaussian process: denoiser, density and samples by formula.

Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering, Peng Wang, Huijie Zhang, Zekai Zhang, Siyi
Chen, Yi Ma, Qing Qu, 2024, arXiv:2409.02426: x_0 = U_k diag(l_k) z, with U_k orthonormal [D, d]; here plus ridge delta
times white noise, without which the density is singular at s = 0. At level (a, s) component k is N(0, S_k) with S_k = v
U_k U_k^T + w (1 - U_k U_k^T), v = a^2 (l^2 + delta^2) + s^2, w = a^2 delta^2 + s^2. Costs K x D x d per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process

__all__ = ["MoLRG"]


@dataclass(frozen=True, eq=False)
class MoLRG:
    """A denoiser like any other. x: [B, D], or any [B, ...] with D numbers per row; t: [], [B] or leading axes.

    cond: None, or {"label": int [B]}: the component of that number; `null` stands for all of them.
    """

    bases: Tensor  # [K, D, d], orthonormal columns
    process: Process
    scales: Tensor | float = 1.0  # l: standard deviations within a subspace, [], [K] or [K, d]
    ridge: float = 0.01  # delta: standard deviation of the data in all directions besides
    weights: Tensor | None = None  # [K], need not sum to 1; None: equal

    def __post_init__(self) -> None:
        U = self.bases.double()
        if U.ndim != 3 or not torch.allclose(U.transpose(1, 2) @ U, torch.eye(U.shape[-1]).to(U), atol=1e-6):
            raise OrnsteinError(f"bases of shape {tuple(U.shape)} are not orthonormal columns", "Give [K, D, d] from QR.")
        if not self.ridge > 0:
            raise OrnsteinError(f"ridge={self.ridge} makes the density singular", "Give a little more than 0.")
        scales = torch.as_tensor(self.scales, dtype=torch.float64)
        scales = (scales[:, None] if scales.ndim == 1 else scales).expand(len(U), U.shape[2])
        weights = torch.ones(len(U)) if self.weights is None else self.weights
        if len(weights) != len(U):
            raise OrnsteinError(f"{len(weights)} weights for {len(U)} components", "Give one per component.")
        for name, value in (("bases", U), ("scales", scales), ("weights", weights.double() / weights.sum())):
            object.__setattr__(self, name, value)

    @classmethod
    def random(cls, process: Process, dims: int = 48, rank: int = 6, components: int = 3, ridge: float = 0.01,
               seed: int = 0) -> MoLRG:  # fmt: skip
        """Subspaces of random directions, unit scales, equal weights."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(components, dims, rank, generator=generator, dtype=torch.float64)
        return cls(torch.linalg.qr(drawn).Q, process, ridge=ridge)

    @property
    def null(self) -> int:
        """The label that stands for all components: their number."""
        return len(self.bases)

    def unconditional(self, cond: Any, batch: int) -> dict[str, Tensor]:
        return {"label": torch.full((batch,), self.null)}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None) -> Prediction:
        L, flat = self.process.at(t, x), x.flatten(1)
        logits, inside, v, w, a = self._parts(flat, L, cond)
        share = logits.softmax(1)[..., None]  # [B, K, 1]
        U, l2, d2 = self.bases.to(x), self.scales.to(x) ** 2, self.ridge**2
        gain = (l2 + d2) / v - d2 / w
        x0 = a * (d2 / w[:, 0] * flat + torch.einsum("bkd,kDd->bD", share * gain * inside, U))
        return Prediction(x, L, "x0", x0.reshape(x.shape))

    def log_density(self, x: Tensor, t: Tensor | float = 0.0, cond: Any = None) -> Tensor:
        """log p_t(x | cond) in nats, [B]."""
        return self._parts(x.flatten(1), self.process.at(t, x), cond)[0].logsumexp(1)

    def sample(self, n: int, seed: int = 0, cond: Any = None) -> Tensor:
        """n rows of data, float64 [n, D]; cond as for the denoiser, with n rows."""
        generator = torch.Generator().manual_seed(seed)
        weights = self._log_weights(n, cond, self.weights).exp()
        k = torch.multinomial(weights, 1, generator=generator)[:, 0]
        z = torch.randn(n, self.bases.shape[2], generator=generator, dtype=torch.float64)
        noise = torch.randn(n, self.bases.shape[1], generator=generator, dtype=torch.float64)
        return torch.einsum("nDd,nd->nD", self.bases[k], self.scales[k] * z) + self.ridge * noise

    def _log_weights(self, batch: int, cond: Any, like: Tensor) -> Tensor:
        """log of the prior weights [B, K]."""
        weights = self.weights.to(like).expand(batch, -1)
        if cond is not None:
            label = cond["label"].to(like.device)[:, None]
            if bool(((label < 0) | (label > self.null)).any()):
                raise OrnsteinError(f"a label is not one of 0 to {self.null - 1}", f"{self.null} stands for no label.")
            weights = weights * ((label == torch.arange(self.null, device=like.device)) | (label == self.null))
        return (weights / weights.sum(1, keepdim=True)).log()

    def _parts(self, x: Tensor, L: Any, cond: Any) -> tuple[Tensor, ...]:
        """log pi_k N(x; 0, S_k) [B, K], U^T x [B, K, d], v [B or 1, K, d], w [B or 1, 1, 1], a [B or 1, 1]."""
        a, s = (c.to(x).reshape(-1, *[1] * (x.ndim - 1))[:, :1] for c in (L.a, L.s))
        inside = torch.einsum("bD,kDd->bkd", x, self.bases.to(x))
        w = (a**2 * self.ridge**2 + s**2)[..., None]
        v = a[..., None] ** 2 * self.scales.to(x) ** 2 + w
        outside = (x.square().sum(1)[:, None] - inside.square().sum(2)).clamp_min(0)
        dims, rank = self.bases.shape[1:]
        logdet = v.log().sum(2) + (dims - rank) * w[..., 0].log() + dims * math.log(2 * math.pi)
        density = -0.5 * ((inside**2 / v).sum(2) + outside / w[..., 0] + logdet)
        return self._log_weights(len(x), cond, x) + density, inside, v, w, a
