"""A Gaussian mixture under any Gaussian process: density, score, posterior mean and ODE solution by formula.

Component k of the data is N(m_k, diag v_k) with weight w_k; at level (a, s) it is N(a m_k, a^2 v_k + s^2), so that
E[x0 | x] = sum_k r_k(x) (m_k + a v_k / (a^2 v_k + s^2) (x - a m_k)), r_k the posterior weights. Costs K x D per row.
"""

# budget: two lines over, for the solution of the ODE that the solvers are measured against.

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

__all__ = ["Mixture"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A denoiser like any other. x: [B, D], or any [B, ...] with D numbers per row; t: [], [B] or leading axes.

    cond: None, or {"label": int [B]}: the mixture of the components that bear the label; `null` stands for all of them.
    """

    means: Tensor  # [K, D]
    stds: Tensor  # [K], [K, D] or []: standard deviations, per component or per component and axis
    process: Process
    weights: Tensor | None = None  # [K], need not sum to 1; None: equal
    labels: Tensor | None = None  # int [K], the class of each component; None: every component its own

    def __post_init__(self) -> None:
        if self.means.ndim != 2:
            raise OrnsteinError(f"means of shape {tuple(self.means.shape)}", "Give [components, dimensions].")
        components = len(self.means)
        stds = torch.as_tensor(self.stds, dtype=torch.float64)
        stds = (stds[:, None] if stds.ndim == 1 else stds).expand(self.means.shape)
        weights = torch.ones(components) if self.weights is None else self.weights
        labels = torch.arange(components) if self.labels is None else self.labels
        for name, value in (("weights", weights), ("labels", labels)):
            if len(value) != components:
                raise OrnsteinError(f"{len(value)} {name} for {components} components", "Give one per component.")
        for name, value in (("means", self.means.double()), ("stds", stds.contiguous()), ("labels", labels),
                            ("weights", weights.double() / weights.sum())):  # fmt: skip
            object.__setattr__(self, name, value)

    @classmethod
    def ring(cls, process: Process, components: int = 8, radius: float = 1.0, std: float = 0.1) -> Mixture:
        """Equal blobs on a circle, D = 2."""
        angle = torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)
        return cls(radius * torch.stack([angle.cos(), angle.sin()], 1), torch.tensor(std), process)

    @classmethod
    def random(cls, process: Process, dims: int = 16, components: int = 10, std: float = 0.3, seed: int = 0) -> Mixture:
        """Means from N(0, 1), standard deviations from std/2 to 3 std/2 per axis, uneven weights."""
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(components, dims, generator=generator, dtype=torch.float64)
        stds = std * (0.5 + torch.rand(components, dims, generator=generator, dtype=torch.float64))
        return cls(means, stds, process, 0.5 + torch.rand(components, generator=generator, dtype=torch.float64))

    @property
    def null(self) -> int:
        """The label that stands for all components: one more than the largest."""
        return int(self.labels.max()) + 1

    def unconditional(self, cond: Any, batch: int) -> dict[str, Tensor]:
        return {"label": torch.full((batch,), self.null)}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, clock: Clock | None = None) -> Prediction:
        L = self.process.at(t, x)
        a, s = _flat(L, x)
        x0, _ = self._answer(x.flatten(1), a, s, cond)
        return Prediction(x, L, "x0", x0.reshape(x.shape).to(x.dtype))

    def log_density(self, x: Tensor, t: Tensor | float = 0.0, cond: Any = None) -> Tensor:
        """log p_t(x | cond) in nats, [B]."""
        L = self.process.at(t, x)
        logits, *_ = self._logits(x.flatten(1), *_flat(L, x), cond)
        return logits.logsumexp(1)

    def score(self, x: Tensor, t: Tensor | float = 0.0, cond: Any = None) -> Tensor:
        """The gradient of log p_t(x | cond), the shape of x; finite at t = 0 too."""
        L = self.process.at(t, x)
        logits, gap, total = self._logits(x.flatten(1), *_flat(L, x), cond)
        return -(logits.softmax(1)[..., None] * gap / total).sum(1).reshape(x.shape)

    def sample(self, n: int, seed: int = 0, cond: Any = None) -> Tensor:
        """n rows of data, float64 [n, D]; cond as for the denoiser, with n rows."""
        generator = torch.Generator().manual_seed(seed)
        weights = self._log_weights(n, cond, torch.empty(0, dtype=torch.float64)).exp()
        k = torch.multinomial(weights, 1, generator=generator)[:, 0]
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.stds[k] * noise

    @torch.no_grad()
    def exact(self, x: Tensor, t: Tensor | float | None = None, s: Tensor | float = 0.0, cond: Any = None,
              steps: int = 600) -> Tensor:  # fmt: skip
        """The probability-flow solution at time s of the trajectory through x at time t (None: the prior's), like x.

        Every Gaussian process is the linear flow in y = x/(a+s), tau = s/(a+s), where dy/dtau = noise - x0. Integrated
        there by the classical Runge-Kutta method in float64, with small steps near the data; error about 1e-8.
        """
        big = x.double()
        start, end = (self.process.at(self.process.t_max if v is None else v, big) for v in (t, s))
        tau = [L.flow_time.expand_as(big).flatten(1) for L in (start, end)]
        y, fine = (big / (start.a + start.s)).flatten(1), 0.03
        u0, u1 = (torch.asinh(v / fine) for v in tau)  # tau = fine sinh(u)
        h = (u1 - u0) / steps

        def slope(y: Tensor, u: Tensor) -> Tensor:
            tau = (fine * u.sinh()).clamp(0, 1)
            x0, noise = self._answer(y, 1 - tau, tau, cond)
            return (noise - x0) * fine * u.cosh()

        for k in range(steps):
            u = u0 + k * h
            k1 = slope(y, u)
            k2 = slope(y + h / 2 * k1, u + h / 2)
            k3 = slope(y + h / 2 * k2, u + h / 2)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, u + h))
        return (y.reshape(x.shape) * (end.a + end.s)).to(x.dtype)

    def _log_weights(self, batch: int, cond: Any, like: Tensor) -> Tensor:
        """log w_k of the components that each row may have, [B, K]."""
        weights = self.weights.to(like).expand(batch, -1)
        if cond is not None:
            label = cond["label"].to(like.device)[:, None]
            allowed = (label == self.labels.to(like.device)) | (label == self.null)
            if not bool(allowed.any(1).all()):
                raise OrnsteinError(f"a label is not one of 0 to {self.null - 1}", f"{self.null} stands for no label.")
            weights = weights * allowed
        return (weights / weights.sum(1, keepdim=True)).log()

    def _logits(self, x: Tensor, a: Tensor, s: Tensor, cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; a m_k, a^2 v_k + s^2) [B, K], x - a m_k and a^2 v_k + s^2 [B, K, D]."""
        means, stds = self.means.to(x), self.stds.to(x)
        gap = x[:, None] - a[:, None] * means
        total = a[:, None] ** 2 * stds**2 + s[:, None] ** 2
        density = -0.5 * (gap**2 / total + total.log() + math.log(2 * math.pi)).sum(2)
        return self._log_weights(len(x), cond, x) + density, gap, total

    def _answer(self, x: Tensor, a: Tensor, s: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """Posterior means of data and noise, each [B, D]."""
        logits, gap, total = self._logits(x, a, s, cond)
        share = logits.softmax(1)[..., None]
        x0 = (share * (self.means.to(x) + a[:, None] * self.stds.to(x) ** 2 * gap / total)).sum(1)
        return x0, s * (share * gap / total).sum(1)


def _flat(levels: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """a and s as rows [B, D] beside x; one row [1, D] where all of x stands at one time."""
    return tuple((v.expand(1, *x.shape[1:]) if v.ndim == 0 else v.expand_as(x)).flatten(1) for v in (levels.a, levels.s))
