"""The low-rank term beside one linear layer, added by a hook so that the layer's own class does not matter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LowRank"]


class LowRank(nn.Module):
    """scale B A x for x [..., in] -> [..., out], computed in float32 and returned in the type of x.

    owner: has `scale` and `strength`; layer: has in_features and out_features, and is called as layer(x).
    original: the layer's weights from before a merge, while merged; the hook then rests.
    """

    def __init__(self, owner: Any, path: str, layer: nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        device = next((v.device for v in layer.state_dict().values()), "cpu")
        down = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        self.down = nn.Parameter(down.to(device))  # A
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))  # B
        self.__dict__.update(owner=owner, path=path, layer=layer, original=None)  # beside, not inside: no submodules
        self.handle = layer.register_forward_hook(self.hook)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x.to(self.down.dtype), self.down)
        return (F.linear(low, self.up) * self.owner.scale).to(x.dtype)

    def hook(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return None if self.original is not None or self.owner.strength == 0 else output + self(args[0])

    def delta(self) -> Tensor:
        """scale B A, [out, in]: what a merge adds."""
        return self.owner.scale * (self.up @ self.down)
