"""Balls around nearest neighbours: what each sample says of precision, recall, density and coverage (see metrics/prdc)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distances", "per_sample", "reach"]

ROWS = 512  # generated samples whose distances are held at once


def per_sample(g: Tensor, r: Tensor, k: int) -> dict[str, Tensor]:
    """What each sample says, in float64: precision and density [N] of g, recall and coverage [M] of r."""
    reach_g, reach_r = reach(g, k), reach(r, k)
    real, dense = [], []
    recalled = covered = torch.zeros(len(r), dtype=torch.bool, device=r.device)
    for rows, radius in zip(g.split(ROWS), reach_g.split(ROWS)):
        far = distances(rows, r)
        inside = far <= reach_r
        real.append(inside.any(1))
        dense.append(inside.sum(1) / k)
        covered = covered | inside.any(0)
        recalled = recalled | (far <= radius[:, None]).any(0)
    return {"precision": torch.cat(real).double(), "recall": recalled.double(),
            "density": torch.cat(dense).double(), "coverage": covered.double()}  # fmt: skip


def reach(x: Tensor, k: int) -> Tensor:
    """Distance [N] from each row of x [N, D] to its k-th nearest other row."""
    found = [distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(ROWS)]  # the row itself comes first
    return torch.cat(found)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M], taken without the expansion of the square, which rounds zero away."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
