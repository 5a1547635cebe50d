"""Semantic directions: a sample is moved along the top singular vectors of the denoiser's Jacobian, half way up.

Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering, Peng Wang, Huijie Zhang, Zekai Zhang, Siyi
Chen, Yi Ma, Qing Qu, 2024, arXiv:2409.02426 (section 4.3): x_t -> x_t + c v_i with v_i the right singular vectors of
J = d E[x_0 | x_t] / d x_t, which for a mixture of low-rank Gaussians span the subspace that the sample belongs to. No
training, no text. The vectors are found by subspace iteration on J^T J, orthonormalised in every round. Costs 2 x rank x
iterations network calls with derivatives on top of the way up and down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import gather

__all__ = ["SemanticDirection"]


@dataclass(frozen=True)
class SemanticDirection:
    """Invert to a middle time, move along one direction of the sample's own, regenerate."""

    neutral: ClassVar[dict[str, float]] = {"shift": 0.0, "at": 1.0}  # what makes it plain inversion

    shift: float = 1.0  # c, in units of the data: x_t moves by a(t) c
    index: int = 0  # which direction, the strongest first
    at: float = 0.5  # how far up the grid, as a share of its steps; published: 0.5 to 0.7, where J also sees neighbours
    steps: int = 50  # of the whole grid, up and down
    corrections: int = 0  # of the inversion, per step
    rank: int = 3  # directions that are sought together
    iterations: int = 6  # of the subspace iteration
    rule: str | tuple[float, ...] = "uniform"  # time grid
    seed: int = 0  # of the iteration's start

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.rank or self.iterations < 1 or not 0 < self.at <= 1:
            raise OrnsteinError(f"index={self.index}, rank={self.rank}, iterations={self.iterations}, at={self.at}",
                                "Give an index below the rank, at least 1 iteration, and 0 < at <= 1.")  # fmt: skip

    def directions(self, denoiser: Denoises, x: Tensor, t: Tensor | float, cond: Any = None,
                   ids: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Right singular vectors at x_t [B, ...], t []: unit vectors [B, rank, ...] and singular values [B, rank].

        The sign of a vector is that which makes its sum positive; a sample's vectors do not depend on its neighbours.
        """
        batch, rank, dims = len(x), self.rank, x[0].numel()
        if rank > dims:
            raise OrnsteinError(f"{rank} directions in {dims} dimensions", "Ask for fewer.")
        index = torch.arange(batch, device=x.device).repeat_interleave(rank)
        big, many = x[index], gather(cond, index, batch)
        start = NoiseSource.of(self.seed, range(batch) if ids is None else ids).draw(0, x.new_empty(batch, dims, rank))
        V = torch.linalg.qr(start.double()).Q

        def ask(y: Tensor) -> Tensor:
            return denoiser(y, t, many).x0

        def rows(V: Tensor) -> Tensor:  # [B, D, rank] -> [B rank, ...]
            return V.transpose(1, 2).reshape(big.shape).to(x.dtype)

        def columns(y: Tensor) -> Tensor:
            return y.detach().double().reshape(batch, rank, dims).transpose(1, 2)

        with sdpa_kernel(SDPBackend.MATH):  # forward derivatives have no formula in fused attention
            pull = torch.func.vjp(ask, big)[1]
            for _ in range(self.iterations):
                pushed = torch.func.jvp(ask, (big,), (rows(V),))[1]
                V = torch.linalg.qr(columns(pull(pushed)[0])).Q
            pushed = columns(torch.func.jvp(ask, (big,), (rows(V),))[1])
        _, values, turn = torch.linalg.svd(pushed, full_matrices=False)  # within the span, strongest first
        V = V @ turn.transpose(1, 2)
        V = V * torch.where(V.sum(1, keepdim=True) < 0, -1.0, 1.0)
        return V.transpose(1, 2).reshape(batch, rank, *x.shape[1:]).to(x.dtype), values

    def edit(self, denoiser: Denoises, x: Tensor, source: Any = None, target: Any = None,
             ids: Sequence[int] | None = None) -> Tensor:  # fmt: skip
        """x: data [B, ...] that is `source` -> moved, as `target` would have it (mostly the same, or None)."""
        ids = tuple(range(len(x))) if ids is None else tuple(ids)
        way = self.way()
        return self.resume(denoiser, way.invert(denoiser, x, source, ids), target, ids)

    def resume(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """x: latents [B, ...] at the time `at`, however they were come by -> moved, and sampled down to data."""
        ids, way = tuple(range(len(x))) if ids is None else tuple(ids), self.way()
        t = way.times(denoiser, x)[0]
        if self.shift:
            v = self.directions(denoiser, x, t, cond, ids)[0][:, self.index]
            x = x + denoiser.process.at(t, x).a * self.shift * v
        return way.generate(denoiser, x, cond, ids)

    def way(self) -> Any:
        """The inversion that goes up to `at` and comes down from it."""
        settings = {"steps": self.steps, "corrections": self.corrections, "strength": self.at, "rule": self.rule}
        return catalog.build("editing", {"name": "inversion", **settings})
