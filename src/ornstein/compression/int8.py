"""Int8: weights as whole numbers of 8 bits, one scale per output channel; on demand activations too, one per token.

LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale, Dettmers, Lewis, Belkada, Zettlemoyer, 2022,
arXiv:2208.07339 (its vector-wise quantisation; here without the branch for outliers):

    y_ij = s^x_i s^w_j sum_k q^x_ik q^w_jk + b_j,   q = round(. / s) in [-127, 127],   s^x_i = max_k |x_ik| / 127,
    s^w_j = max_k |w_jk| / 127   (symmetric absmax, so there is no zero point)

'weights' multiplies in the input's own type after dequantising at each call: a quarter of the float32 bytes, no faster.
'dynamic' multiplies whole numbers; convolutions stay at 'weights'. A token's scale comes from that token alone, so a
sample does not depend on its neighbours. Gradients pass straight through to the input; the weights do not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError, unknown

from .layers.swap import chosen, counted_bytes, swap

__all__ = ["Int8", "Int8Conv2d", "Int8Linear"]

CHUNK = 256  # tokens at a time and core in 'dynamic': whole numbers and their rescaling then stay in its cache


class NoFloatWeight(OrnsteinError, AttributeError):
    """Someone asked an int8 layer for `.weight`."""


class _Int8Layer(nn.Module):
    """weight_int8: int8 [out, ...]; scale: float32 [out], kept in float32 when the model is cast; bias as it was."""

    def __init__(self, layer: nn.Module, name: str = "") -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        peak = weight.abs().flatten(1).amax(1)
        if not weight.is_meta and not bool(peak.isfinite().all()):
            raise OrnsteinError(f"the weights of '{name}' are not finite", "Mend the model before quantising it.")
        scale = torch.where(peak > 0, peak / 127, torch.ones_like(peak))
        self.name = name
        self.register_buffer("weight_int8", (weight / _column(scale, weight)).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def __getattr__(self, key: str) -> Any:
        if key == "weight":
            raise NoFloatWeight(f"the int8 layer '{self.__dict__.get('name', '')}' has no float .weight",
                                "Ask for .dequantised(), or leave it float: Int8(skip=('its.path',)).")  # fmt: skip
        return super().__getattr__(key)

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        kept = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:  # a cast of the model must not round the scales
            self.scale = kept.to(self.scale.device)
        return self

    def dequantised(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that this layer stands for, [out, ...]."""
        return (self.weight_int8 * _column(self.scale, self.weight_int8)).to(dtype)

    @property
    def reported_bytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.numel() * self.bias.element_size()
        return self.weight_int8.numel() + 4 * len(self.scale) + bias

    def _float(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.dequantised(x.dtype), None if self.bias is None else self.bias.to(x.dtype)


class Int8Linear(_Int8Layer):
    """x [..., in_features] of any float type -> [..., out_features] of the same type."""

    def __init__(self, layer: nn.Linear, name: str = "", dynamic: bool = False) -> None:
        super().__init__(layer, name)
        self.in_features, self.out_features, self.dynamic = layer.in_features, layer.out_features, dynamic

    def forward(self, x: Tensor) -> Tensor:
        if self.dynamic and not (torch.is_grad_enabled() and x.requires_grad):
            return self._whole_numbers(x)
        y = F.linear(x, *self._float(x))
        return y + (self._whole_numbers(x.detach()) - y).detach() if self.dynamic else y  # straight-through gradient

    def _whole_numbers(self, x: Tensor) -> Tensor:
        rows, weight = x.reshape(-1, self.in_features), self.weight_int8.t()
        bias = self.bias.float() if self.bias is not None else rows.new_zeros((), dtype=torch.float32)
        if rows.is_cuda:  # its kernel wants more than 16 rows, and multiples of 8
            if self.in_features % 8 or self.out_features % 8:
                return F.linear(x, *self._float(x))
            rows = F.pad(rows, (0, 0, 0, max(0, 17 - len(rows))))
        out = rows.new_empty(len(rows), self.out_features)
        step = len(rows) if rows.is_cuda else CHUNK * torch.get_num_threads()
        for i in range(0, len(rows), max(1, step)):
            some = rows[i : i + step].float()
            scale = some.abs().amax(1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
            product = torch._int_mm(some.div(scale).round_().to(torch.int8), weight).float().mul_(self.scale)
            out[i : i + step] = torch.addcmul(bias, product, scale)
        return out[: x.numel() // self.in_features].view(*x.shape[:-1], self.out_features)


class Int8Conv2d(_Int8Layer):
    """x [B, in, H, W] -> [B, out, H', W'], weights dequantised at each call."""

    def __init__(self, layer: nn.Conv2d, name: str = "") -> None:
        super().__init__(layer, name)
        zeros = layer.padding_mode == "zeros"
        self.outside = None if zeros else (layer._reversed_padding_repeated_twice, layer.padding_mode)
        self.settings = (layer.stride, layer.padding if zeros else 0, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.outside[0], mode=self.outside[1]) if self.outside else x
        return F.conv2d(x, *self._float(x), *self.settings)


@dataclass(frozen=True)
class Int8:
    """Called with a model, gives a copy in evaluation mode whose chosen layers are int8."""

    mode: str = "weights"  # 'weights': less memory; 'dynamic': activations too, for speed
    roles: tuple[str, ...] = ("qkv", "attention_out", "ffn", "conv")  # not embedding, temporal, head: sensitive
    skip: Sequence[str] = ()  # paths to leave float; * stands for anything
    min_size: int = 4096  # layers of fewer weights stay float
    inplace: bool = False  # change the model itself instead of a copy

    def __post_init__(self) -> None:
        if self.mode not in ("weights", "dynamic"):
            raise unknown("int8 mode", self.mode, ("weights", "dynamic"))

    def __call__(self, model: nn.Module) -> nn.Module:
        layers = chosen(model, tuple(self.roles), self.skip, (nn.Linear, nn.Conv2d), self.min_size, "Int8")
        return swap(model, layers, self._int8, self.inplace)

    def _int8(self, name: str, layer: nn.Module) -> nn.Module:
        dynamic = self.mode == "dynamic"
        return Int8Conv2d(layer, name) if isinstance(layer, nn.Conv2d) else Int8Linear(layer, name, dynamic)

    def reported_bytes(self, model: nn.Module) -> int:
        """Bytes of the compressed model, added up from its layers' formulae."""
        return counted_bytes(model)


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
