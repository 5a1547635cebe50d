"""Alignment: hidden states of the denoiser are drawn to features of the clean picture, for as long as that helps.

REPA, Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than You Think, Yu, Kwak, Jang,
Jeong, Huang, Shin, Xie, 2024, arXiv:2410.06940 (eq. 8), switched off after a while as in REPA Works Until It Doesn't
(HASTE), Wang et al., 2025, arXiv:2505.16792 (its features only, not its attention maps):

    L = -weight / N sum_n cos(y_n, p(h_n)),   y = features(x_0) without gradient,   p a multilayer perceptron

Cost: one call of the feature network and of p per step between `start` and `stop`; nothing outside or in sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Output

__all__ = ["Alignment"]


class Alignment(nn.Module):
    """features: x0 [B, ...] -> [B, M, F] tokens, [B, F, h, w] maps or [B, F] (the same target for every token).

    width: of the tapped tokens [B, N, width]; feature_width: F; hidden: of the two inner layers of the perceptron.
    tap: the state's name; start, stop: active for start <= step < stop (None: to the end); key: of the batch.
    A frozen network given as `features` is not trained, saved or moved by this module: put it on the device yourself.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], width: int, feature_width: int, tap: str = "blocks.2",
                 weight: float = 0.5, start: int = 0, stop: int | None = None, hidden: int = 256,
                 key: str = "x0") -> None:  # fmt: skip
        super().__init__()
        if weight == 0 or (stop is not None and stop <= start):
            raise OrnsteinError(f"alignment with weight={weight}, start={start}, stop={stop} does nothing", "Drop it.")
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                       nn.Linear(hidden, feature_width))  # fmt: skip
        self.__dict__["features"] = features  # beside, not inside: its parameters are not ours
        self.taps, self.weight, self.start, self.stop, self.key = (tap,), weight, start, stop, key

    def active(self, step: int) -> bool:
        return self.start <= step and (self.stop is None or step < self.stop)

    def forward(self, output: Output, batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        """{'alignment': weighted scalar}."""
        if not self.active(step):
            return {"alignment": output.value.new_zeros((), dtype=torch.float32)}
        (tap,) = self.taps
        if tap not in output.taps:
            raise unknown("tap", tap, output.taps)
        hidden = output.taps[tap]
        said = self.projector(hidden.to(self.projector[0].weight.dtype))
        with torch.no_grad():
            target = _tokens(self.features(batch[self.key]), said.shape[1])
        if target.shape[0] != said.shape[0] or target.shape[-1] != said.shape[-1]:
            raise OrnsteinError(f"features {tuple(target.shape)} do not fit projected states {tuple(said.shape)}",
                                "Give feature_width the width of the features, and one row per sample.")  # fmt: skip
        return {"alignment": -self.weight * F.cosine_similarity(said.float(), target.detach().float(), dim=-1).mean()}


def _tokens(features: Tensor, count: int) -> Tensor:
    """Features as [B, count, F]. Square grids are averaged or interpolated; other mismatches are refused."""
    if features.ndim == 2:
        return features[:, None].expand(-1, count, -1)
    if features.ndim == 3 and features.shape[1] == count:
        return features
    grid = features
    if features.ndim == 3:
        have = round(features.shape[1] ** 0.5)
        if have**2 != features.shape[1]:
            grid = features[..., None]  # no square: refused below
        else:
            grid = features.transpose(1, 2).unflatten(2, (have, have))
    if grid.ndim == 4 and grid.shape[2] * grid.shape[3] == count:
        return grid.flatten(2).transpose(1, 2)
    want = round(count**0.5)
    if grid.ndim != 4 or grid.shape[2] != grid.shape[3] or want**2 != count:
        raise OrnsteinError(f"features {tuple(features.shape)} cannot be laid over {count} tokens",
                            "Give one feature per token, or square grids on both sides.")  # fmt: skip
    grid = grid.float()
    fine = grid.shape[2] > want
    grid = F.adaptive_avg_pool2d(grid, want) if fine else F.interpolate(grid, (want, want), mode="bilinear")
    return grid.flatten(2).transpose(1, 2)
