"""Embeddings of time, class and text, and the null condition that goes with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError

__all__ = ["Condition", "TimeEmbedding", "check_size", "null_condition", "sinusoid"]


def sinusoid(t: Tensor, width: int, scale: float = 1000.0, longest: float = 10000.0) -> Tensor:
    """Sines and cosines of t [...] at width/2 frequencies -> [..., width] (Vaswani et al., 2017, arXiv:1706.03762)."""
    half = width // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t[..., None].float() * scale * frequencies
    return torch.cat([angle.cos(), angle.sin()], -1)


class TimeEmbedding(nn.Module):
    """t [...] -> [..., width]."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t, self.frequencies).to(self.mlp[0].weight.dtype))


class Condition(nn.Module):
    """Class label and pooled text -> [B, width]; text tokens -> [B, L, width] or None. Absent inputs are refused."""

    def __init__(self, width: int, classes: int, text_dim: int) -> None:
        super().__init__()
        self.classes, self.text_dim = classes, text_dim
        self.label_embed = nn.Embedding(classes + 1, width) if classes else None  # the last row is "no class"
        self.text_pooled = nn.Linear(text_dim, width) if text_dim else None
        self.text_tokens = nn.Linear(text_dim, width) if text_dim else None

    def forward(self, cond: dict[str, Tensor] | None, batch: int,
                ) -> tuple[Tensor | float, Tensor | None, Tensor | None]:  # fmt: skip
        """(summed embedding, text tokens, text mask [B, 1, 1, L])."""
        total: Tensor | float = 0.0
        tokens = mask = None
        if self.label_embed is not None:
            total = total + self.label_embed(_need(cond, "label", (batch,)))
        if self.text_pooled is not None:
            dtype = self.text_pooled.weight.dtype
            total = total + self.text_pooled(_need(cond, "pooled", (batch, self.text_dim)).to(dtype))
            tokens = self.text_tokens(_need(cond, "tokens", (batch, None, self.text_dim)).to(dtype))
            mask = cond["mask"][:, None, None, :] if "mask" in cond else None
        return total, tokens, mask


def _need(cond: dict[str, Tensor] | None, key: str, shape: tuple) -> Tensor:
    if not cond or key not in cond:
        given = ", ".join(sorted(cond)) if cond else "none"
        raise OrnsteinError(f"the model needs the condition '{key}'", f"It was given {given}.")
    value = cond[key]
    if len(value.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, value.shape)):
        want = tuple("any" if w is None else w for w in shape)
        raise OrnsteinError(f"condition '{key}' has shape {tuple(value.shape)}", f"The model needs {want}.")
    return value


def null_condition(cond: dict[str, Any] | None, batch: int, classes: int, text_dim: int,
                   length: int = 1) -> dict[str, Tensor]:  # fmt: skip
    """The unconditional condition: the extra class, and text of zeros with one visible token."""
    some = next((v for v in (cond or {}).values() if isinstance(v, Tensor)), torch.zeros(1))
    out: dict[str, Tensor] = {}
    if classes:
        out["label"] = torch.full((batch,), classes, dtype=torch.long, device=some.device)
    if text_dim:
        length = cond["tokens"].shape[1] if cond and "tokens" in cond else length
        dtype = cond["tokens"].dtype if cond and "tokens" in cond else torch.float32
        out["tokens"] = torch.zeros(batch, length, text_dim, device=some.device, dtype=dtype)
        out["pooled"] = torch.zeros(batch, text_dim, device=some.device, dtype=dtype)
        out["mask"] = torch.arange(length, device=some.device).expand(batch, length) < 1
    return out


def check_size(name: str, x: Tensor, channels: int, multiple: int) -> None:
    """Refuse samples that the network cannot take."""
    if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % multiple or x.shape[3] % multiple or 0 in x.shape[2:]:
        raise OrnsteinError(f"{name} cannot take a sample of shape {tuple(x.shape)}",
                            f"It needs [B, {channels}, H, W] with H and W multiples of {multiple}.")  # fmt: skip
