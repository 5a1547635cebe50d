"""Derivatives of a denoiser's answer about a batch: products with its Jacobian, the Jacobian, its trace; and which
points a metric of a denoiser asks at.

Everything is done in the coordinates y = x/a = x_0 + sigma noise, in which all Gaussian processes are one. Forward
derivatives have no formula in fused attention, hence the plain one here. A field is f(y [M, ...], rows int [M]): its
values, of the shape of y, for those rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import gather

from .measure import check_values

__all__ = ["Field", "answers", "check_data", "divergence", "full", "noised", "probes", "pull", "push"]

Field = Callable[[Tensor, Tensor], Tensor]


def check_data(x: Tensor, sigmas: Sequence[float] = (1.0,), ids: Sequence[int] | None = None) -> Sequence[int]:
    """Raise where data [N, ...], noise levels or sample ids make no sense; the ids."""
    check_values(x, "data", 2)
    if not sigmas or min(sigmas) <= 0:
        raise OrnsteinError(f"noise levels {tuple(sigmas)}", "Give noise-to-signal ratios above 0.")
    if ids is not None and len(ids) != len(x):
        raise OrnsteinError(f"{len(ids)} sample ids for {len(x)} samples", "Give one id per sample.")
    return range(len(x)) if ids is None else ids


def noised(x: Tensor, sigma: float, seed: int, ids: Sequence[int], key: int) -> Tensor:
    """y = x + sigma noise, the noise keyed by (seed, id, key)."""
    return x + sigma * NoiseSource.of(seed, ids).draw(key, x)


def probes(x: Tensor, count: int, seed: int, ids: Sequence[int], key: int) -> Tensor:
    """Rademacher vectors [count, *x.shape], keyed as the noise."""
    source = NoiseSource.of(seed, ids).anew()
    return torch.stack([source.draw(key * count + k, x).sign() for k in range(count)])


def answers(denoiser: Denoises, y: Tensor, cond: Any, kind: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """f(y, log sigma [M], rows [M]): what the denoiser says of rows of the batch, in terms of `kind`."""
    batch, process = len(y), denoiser.process

    def f(y: Tensor, log_sigma: Tensor, rows: Tensor) -> Tensor:
        t = process.time(-2 * log_sigma)
        with sdpa_kernel(SDPBackend.MATH):
            return denoiser(process.at(t, y).a * y, t, gather(cond, rows, batch)).get(kind)

    return f


def push(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and J v."""
    return torch.func.jvp(f, (x,), (v,))


def pull(f: Callable[[Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    """J^T w."""
    return torch.func.vjp(f, x)[1](w)[0]


def full(f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) [B, ...] and the Jacobian of every row [B, D, D] (first the value's axis), at D rows for one in one call."""
    batch, dims = len(x), x[0].numel()
    rows = torch.arange(batch, device=x.device).repeat_interleave(dims)
    basis = torch.eye(dims, dtype=x.dtype, device=x.device).repeat(batch, 1).view(-1, *x.shape[1:])
    value, columns = push(lambda y: f(y, rows), x.repeat_interleave(dims, 0), basis)
    return value[::dims], columns.reshape(batch, dims, dims).transpose(1, 2)


def divergence(f: Field, x: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """f(x) and its divergence [B]: exact, or the mean of v J v over `vectors` [K, B, ...] (Hutchinson, 1989)."""
    if vectors is None:
        value, jacobian = full(f, x)
        return value, jacobian.diagonal(dim1=1, dim2=2).sum(1)
    count, rows = len(vectors), torch.arange(len(x), device=x.device).repeat(len(vectors))
    v = vectors.flatten(0, 1)
    value, pushed = push(lambda y: f(y, rows), x.repeat(count, *[1] * (x.ndim - 1)), v)
    return value[: len(x)], (v * pushed).flatten(1).sum(1).view(count, len(x)).mean(0)
