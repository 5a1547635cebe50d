"""The cheapest choice of one level for each place under a budget, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError

__all__ = ["allocate"]


def allocate(costs: Tensor, saved: Tensor, budget: int) -> Tensor:
    """Choice [P] that has the least sum of costs [P, S] (inf: not allowed) among those that save `budget` or more; saved
    [P, S] are whole numbers: F(l, r) = min_s F(l - 1, r - saved_ls) + C_ls, where r below 0 counts as 0."""
    costs, saved = costs.double(), saved.long()
    reach = torch.full((budget + 1,), torch.inf, dtype=torch.float64)
    reach[0], wanted, steps = 0.0, torch.arange(budget + 1), []
    for price, gain in zip(costs, saved):
        before = (wanted - gain[:, None]).clamp_min(0)  # [S, budget + 1]: what the places before must have saved
        reach, choice = (reach[before] + price[:, None]).min(0)
        steps.append((before, choice))
    if not reach[-1] < torch.inf:
        most = int(torch.where(costs < torch.inf, saved, 0).max(1).values.sum())
        raise OrnsteinError(f"no choice of levels saves {budget}", f"At most {most} can be saved.")
    chosen, left = [], budget
    for before, choice in reversed(steps):
        level = int(choice[left])
        chosen.append(level)
        left = int(before[level, left])
    return torch.tensor(chosen[::-1])
