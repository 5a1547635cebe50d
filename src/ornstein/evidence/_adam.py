"""Adam for the short trainings of evidence. `torch.optim` brings the compiler in, whose import takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Adam"]


class Adam:
    """Kingma, Ba, 2014, arXiv:1412.6980, with decoupled decay (Loshchilov, Hutter, 2017, arXiv:1711.05101). `lr` may change
    between steps. The step is the one kernel that torch.optim.AdamW(fused=True) calls."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999),
                 decay: float = 0.0) -> None:  # fmt: skip
        self.parameters, self.lr, self.betas, self.decay = list(parameters), lr, betas, decay
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.counts = [torch.zeros(()) for _ in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        known = [k for k, p in enumerate(self.parameters) if p.grad is not None]
        p, *state, counts = ([some[k] for k in known] for some in (self.parameters, self.first, self.second, self.counts))
        torch._foreach_add_(counts, 1)
        torch._fused_adamw_(p, [some.grad for some in p], *state, [], counts, lr=self.lr, beta1=self.betas[0],
                            beta2=self.betas[1], weight_decay=self.decay, eps=1e-8, amsgrad=False, maximize=False)  # fmt: skip

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None
