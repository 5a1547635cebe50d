"""The two regressions of a stochastic interpolant: velocity and noise, on pairs of data and end points.

Stochastic Interpolants: A Unifying Framework for Flows and Diffusions, Albergo, Boffi, Vanden-Eijnden, 2023,
arXiv:2303.08797 (eq. 2.13 and 2.16 as mean squared errors; antithetic noise: section 6.1):

    L_b = E |b(t, x_t) - (dalpha x_0 + dbeta y + dgamma z)|^2,      L_eta = E |eta(t, x_t) - z|^2

dgamma grows like gamma^-1 towards the ends. With x_t taken at both +z and -z that term cancels where b is smooth, and
the gradient's variance stays finite. One forward and one backward pass per step, two of each with antithetic noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoiser
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction

__all__ = ["InterpolantLoss"]


@dataclass(frozen=True)
class InterpolantLoss:
    """Called as loss(denoiser, batch, generator, step) -> {'loss', 'velocity', 'noise'}; 'noise' with end points only.

    On a process without end points it is the velocity's regression, from which the noise follows.
    """

    antithetic: bool = True  # every pair of points at +z and at -z
    noise_weight: float = 1.0  # of L_eta beside L_b

    def __post_init__(self) -> None:
        if not self.noise_weight >= 0:
            raise OrnsteinError(f"noise_weight={self.noise_weight} is negative", "Give 0 or more.")

    def __call__(self, denoiser: Denoiser, batch: dict[str, Any], generator: torch.Generator | None = None,
                 step: int = 0) -> dict[str, Tensor]:  # fmt: skip
        """batch: 'x0' [B, ...]; 'y' like it where the process has an end point; 'cond'; and what is random, drawn from
        the generator where it is not there: 'u' [B] in (0, 1) or 't' [B], 'noise' like x0."""
        x0, y, process = batch["x0"], batch.get("y"), denoiser.process
        noise = batch["noise"] if "noise" in batch else torch.randn(x0.shape, generator=generator).to(x0)
        two_sided = isinstance(process.at(0.5 * process.t_max, x0).b, Tensor)
        if two_sided != (y is not None):
            has, asks = ("has no", "has one") if two_sided else ("has an", "has none")
            raise OrnsteinError(f"the batch {has} end point 'y', and the process {asks}", "Let the two agree.")
        if "t" in batch:
            t = batch["t"]
        else:
            u = batch["u"] if "u" in batch else torch.rand(len(x0), generator=generator).to(x0.device)
            t = process.t_min + u * (process.t_max - (2 if two_sided else 1) * process.t_min)
        L = process.at(t, x0)
        sum_v = sum_n = 0.0
        signs = (1.0, -1.0) if self.antithetic else (1.0,)
        for sign in signs:
            z = sign * noise
            said = denoiser(process.corrupt(x0, z, t, y), t, batch.get("cond"))
            truth = L.da * x0 + L.ds * z
            sum_v = sum_v + _error(said.velocity, truth + L.db * y if two_sided else truth)
            sum_n = sum_n + (_error(_eta(said), z) if two_sided else 0.0)
        velocity = sum_v / len(signs)
        if not two_sided:
            return {"loss": velocity, "velocity": velocity}
        eta = sum_n / len(signs)
        return {"loss": velocity + self.noise_weight * eta, "velocity": velocity, "noise": eta}


def _error(said: Tensor, truth: Tensor) -> Tensor:
    error = said - truth
    return (error.float() if error.dtype != torch.float64 else error).square().mean()


def _eta(said: Prediction) -> Tensor:
    extra = getattr(said.output, "extra", {})
    if "noise" not in extra:
        what = "the network says nothing about the noise of a two-sided interpolant"
        raise OrnsteinError(what, "Answer Output(velocity, extra={'noise': eta}).")
    return extra["noise"]
