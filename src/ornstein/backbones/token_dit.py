"""TokenDiT: the DiT on a picture of tokens, which says how likely each token is in each place.

Scalable Diffusion Models with Transformers, Peebles, Xie, 2022, arXiv:2212.09748, as it serves masked diffusion in Sahoo et
al., 2024, arXiv:2406.07524 (section 5). Every token enters as K + 1 planes, one of which is 1 (the last: the mask), so that
the DiT's first layer is the table of embeddings, one for each place in a patch; it answers with as many planes, of which the
mask's is dropped: a hidden token is never said to be hidden. Costs what the DiT costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Output

__all__ = ["TokenDiT"]


class TokenDiT(nn.Module):
    """x int64 [B, C, H, W] in 0..tokens (tokens: the mask), t [B] -> logits [B, C, H, W, tokens]. Conditions and taps
    ('network.blocks.0', ...) are the DiT's."""

    discrete: ClassVar[bool] = True

    def __init__(self, tokens: int = 256, channels: int = 1, patch: int = 2, width: int = 256, depth: int = 8, heads: int = 4,
                 classes: int = 0, text_dim: int = 0, positions: str = "rotary", shared: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.tokens, self.channels = tokens, channels
        spec = {"name": "dit", "channels": channels * (tokens + 1), "patch": patch, "width": width, "depth": depth, "heads": heads,
                "classes": classes, "text_dim": text_dim, "positions": positions, "shared": shared}  # fmt: skip
        self.network = catalog.build("backbones", spec)

    def null_condition(self, cond: dict | None, batch: int) -> dict[str, Tensor]:
        return self.network.null_condition(cond, batch)

    def forward(self, x: Tensor, t: Tensor, cond: dict | None = None, taps: Sequence[str] = ()) -> Tensor | Output:
        if x.ndim != 4 or x.shape[1] != self.channels or x.is_floating_point():
            raise OrnsteinError(f"TokenDiT cannot take a sample of shape {tuple(x.shape)}, {x.dtype}",
                                f"It needs whole numbers [B, {self.channels}, H, W].")  # fmt: skip
        planes = F.one_hot(x, self.tokens + 1).movedim(-1, 2).flatten(1, 2).to(self.network.embed.weight.dtype)
        said = self.network(planes, t, cond, [name.removeprefix("network.") for name in taps])
        out = said if isinstance(said, Output) else Output(said)
        logits = out.value.unflatten(1, (self.channels, self.tokens + 1)).movedim(2, -1)[..., :-1]
        if not taps:
            return logits
        return replace(out, value=logits, taps={f"network.{k}": v for k, v in out.taps.items()})
