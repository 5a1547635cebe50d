"""Less width within a branch: some heads of an attention, some hidden channels of an mlp, for any module of plain linears.

The branch runs as it is, and its linear layers are met on the way: those before the middle (scaled-dot-product attention, or
the mlp's nonlinearity) give only the kept outputs, those after it take only these. Nothing of the module is touched.
"""

# budget: linear layers and torch's attention cut in one file, because one cut must fit the other

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import find_sites

__all__ = ["Layout", "Masked", "Slices", "Slim", "importance", "shared", "slim"]

Layout = tuple[int, int]  # (heads, channels of a head) of an attention, (hidden channels, 1) of an mlp


class Slices:
    """Slim weights of one branch in the order of their use; kept as long as what is kept stays the same."""

    def __init__(self, keep: Tensor) -> None:
        self.keep, self.parts = keep, []

    def fits(self, keep: Tensor) -> bool:
        return torch.equal(self.keep, keep)

    def take(self, number: int, weight: Tensor, bias: Tensor | None, axis: int, copies: int, layout: Layout) -> tuple:
        """(weight, bias, index of the kept outputs or inputs) of the linear layer that is met as this number."""
        if number == len(self.parts):
            each = (self.keep[:, None] * layout[1] + torch.arange(layout[1])).flatten()
            index = (torch.arange(copies)[:, None] * layout[0] * layout[1] + each).flatten().to(weight.device)
            less = bias[index] if bias is not None and axis == 0 else bias
            self.parts.append((weight.index_select(axis, index), less, index))
        return self.parts[number]

    def tensors(self) -> list[Tensor]:
        return [t for part in self.parts for t in part if t is not None]


class _Width(TorchFunctionMode):
    """Follows a branch: which linear is met, and whether before or after the middle."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__()
        self.attention, self.name = role != "mlp", name
        self.linears, self.after, self.layout = 0, False, (0, 1)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.attention:
            q = args[0] if args else kwargs["query"]
            self.layout, self.after = (q.shape[1], q.shape[3]), True
            return self.attend(func, args, kwargs)
        if func is not F.linear:
            return func(*args, **kwargs)
        x, weight, bias = (*args, *([None] * (3 - len(args))))[:3]
        bias = kwargs.get("bias", bias)
        last = self.after if self.attention else self.linears > 0
        if not self.attention and not last:
            self.layout = (weight.shape[0], 1)
        if not self.attention and (self.linears > 1 or (last and weight.shape[1] != self.layout[0])):
            raise OrnsteinError(f"the mlp at '{self.name}' is not two plain linear layers", "Leave this network's width as it is.")
        out = self.linear(x, weight, bias, last)
        self.linears += 1
        return out

    def attend(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        return func(*args, **kwargs)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, last: bool) -> Tensor:
        return F.linear(x, weight, bias)

    def found(self) -> Layout:
        """What was met; the branch must have run."""
        if not self.linears or (self.attention and not self.after):
            kind = "attention" if self.attention else "mlp"
            raise OrnsteinError(f"no plain {kind} was met at '{self.name}'", "Its layers must be torch's linear and attention.")
        return self.layout


class Masked(_Width):
    """Everything is computed; heads or channels are weighted by mask [B, H] with its gradient. mask None: only looks."""

    def __init__(self, role: str, name: str, mask: Tensor | None = None) -> None:
        super().__init__(role, name)
        self.mask = mask

    def attend(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        out = func(*args, **kwargs)
        return out if self.mask is None else out * self.mask.to(out)[:, :, None, None]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, last: bool) -> Tensor:
        if last and not self.attention and self.mask is not None:
            x = x * self.mask.to(x).repeat_interleave(x.shape[-1] // self.mask.shape[1], 1)[:, None]
        return F.linear(x, weight, bias)


class Slim(_Width):
    """Only the kept heads, or hidden channels, are computed: keep, int64 [k], in an order that the weights follow."""

    def __init__(self, role: str, name: str, layout: Layout, keep: Tensor, slices: Slices) -> None:
        super().__init__(role, name)
        self.whole, self.keep, self.slices = layout, keep, slices

    def attend(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        names, heads = ("query", "key", "value", "attn_mask"), self.whole[0]
        given = dict(zip(names, args)) | kwargs
        keep = self.keep.to(given["query"].device)
        for name in names:
            if isinstance(given.get(name), Tensor) and given[name].ndim == 4 and given[name].shape[1] == heads:
                given[name] = given[name][:, keep]
        part = func(given.pop("query"), given.pop("key"), given.pop("value"), *args[4:], **given)
        return part.new_zeros(len(part), heads, *part.shape[2:]).index_copy(1, keep, part)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, last: bool) -> Tensor:
        total = self.whole[0] * self.whole[1]
        if last:
            weight, bias, index = self.slices.take(self.linears, weight, bias, 1, 1, self.whole)
            return F.linear(x[..., index] if self.attention else x, weight, bias)
        if weight.shape[0] % total:
            raise OrnsteinError(f"a linear layer at '{self.name}' does not give whole heads",
                                "Leave this attention's width as it is.")  # fmt: skip
        copies = weight.shape[0] // total  # q, k and v from one layer: in this order, each of all heads
        weight, bias, index = self.slices.take(self.linears, weight, bias, 0, copies, self.whole)
        part = F.linear(x, weight, bias)
        if not self.attention:
            return part
        return part.new_zeros(*part.shape[:-1], copies * total).index_copy(-1, index, part)


def shared(run: Call, share: float) -> Call:
    """The same computation, of which the record counts only this share."""
    clock = replace(run.clock, share=run.clock.share * share)
    return Call(run.site, clock, run.run, run.plugins, run.bound, run.inner, run.network, run.depth)


def slim(run: Call, streams: Streams, layout: Layout, keep: Tensor, slices: Slices | None = None,
         rows: Tensor | None = None) -> Streams:  # fmt: skip
    """What leaves the branch of `run` with only these heads or channels, for all rows or for some."""
    with Slim(run.site.role, run.site.name, layout, keep, slices or Slices(keep)):
        return shared(run, len(keep) / layout[0])(streams, rows)


@torch.no_grad()
def importance(denoiser: Any, drawn: tuple, source: torch.Generator) -> Tensor:
    """Order of the hidden channels of each mlp, the most important first, int64 [L, M]: by mean |h| |w_out| over data
    drawn = (x_0, cond) at random times."""
    net, seen, hooks = denoiser.backbone, [], []
    for site in (s for s in find_sites(net) if s.grain == "branch" and s.role == "mlp"):
        last = [m for m in net.get_submodule(site.name).modules() if isinstance(m, torch.nn.Linear)][-1]
        hooks.append(last.register_forward_pre_hook(lambda m, args: seen.append(
            args[0].abs().flatten(0, -2).mean(0) * m.weight.norm(dim=0))))  # fmt: skip
    x0, cond = drawn
    t, n = torch.rand(len(x0), generator=source), torch.randn(x0.shape, generator=source).to(x0)
    levels = denoiser.process.at(t.to(x0.device), x0)
    try:
        denoiser((levels.a * x0 + levels.s * n).to(x0.dtype), t.to(x0.device), cond)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise OrnsteinError(f"{type(net).__name__} has no mlp whose channels could be put in order", "Use skip.")
    return torch.stack(seen).argsort(1, descending=True).cpu()
