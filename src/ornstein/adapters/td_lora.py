"""TD-LoRA: a low-rank term whose up-projection is a mixture of experts that the time weighs.

DyDiT++: Diffusion Transformers with Timestep and Spatial Dynamics for Efficient Visual Generation, Zhao, Han, Tang, Wang,
Luo, Song, Huang, Wang, You, 2025, arXiv:2504.06803 (timestep-dynamic LoRA):

    h = W0 x + (alpha / r) B(t) A x,   B(t) = sum_i pi_i(t) B_i,   pi = softmax(R(t)),   B_i zero, A normal, W0 frozen

One router R serves all layers; at the start its experts share the times evenly. Costs r (in + out) multiplications a token
and layer, and E r out a sample for the mixture. A merge takes the mixture of one time into the weights; the difference
to it stays beside them, so that the answer is right at every time.
"""

# budget: beside what every handle does (layers/handles) a router over times and the context of the call in progress

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.roles import role_of

from .layers import files, handles
from .layers.handles import check_free, check_open, leave, mark, named, of_kind, put_back, take_in
from .layers.hosts import freeze, hosts

__all__ = ["TDLoRA", "Attached", "attached", "load"]

TIMES = ("t", "timestep", "timesteps", "time")  # what networks call their argument
_NOW: ContextVar[dict[int, Tensor] | None] = ContextVar("td_lora", default=None)  # pi of the call in progress, by adapter


class Pair(nn.Module):
    """A and the B_i of one layer. moved: the mixture that was merged into its weight, [E], while it is."""

    def __init__(self, owner: Attached, path: str, layer: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        experts, rank = owner.settings.experts, owner.settings.rank
        device = next((v.device for v in layer.state_dict().values()), "cpu")
        down = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        self.down = nn.Parameter(down.to(device))  # A
        self.up = nn.Parameter(torch.zeros(experts, layer.out_features, rank, device=device))  # B_i
        self.plain = role_of(path) in ("qkv", "attention_out")
        self.__dict__.update(owner=owner, path=path, layer=layer, original=None, moved=None)  # beside, not inside
        self.handle = layer.register_forward_hook(self.hook)

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        """x [B, ..., in], mix [B or 1, E] -> [B, ..., out]. A of an attention is a plain product: a part that runs some
        heads alone cuts linear layers, which this is not; an mlp run so is refused by that part."""
        x32 = x.to(self.down.dtype)
        low = x32 @ self.down.t() if self.plain else F.linear(x32, self.down)
        up = torch.einsum("be,eor->bro", mix if self.moved is None else mix - self.moved, self.up)
        out = (low.reshape(len(low), -1, low.shape[-1]) @ up).reshape(*low.shape[:-1], -1)
        return (out * self.owner.scale).to(x.dtype)

    def hook(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.owner.strength == 0 or (self.moved is not None and len(self.moved) == 1):
            return None
        return output + self(args[0], self.owner.mixture(len(args[0])))

    def delta(self, mix: Tensor) -> Tensor:
        """The term at one mixture [E], as a weight [out, in]."""
        return self.owner.scale * (torch.einsum("e,eor->or", mix, self.up) @ self.down)


class Attached(nn.Module):
    """One adapter on one model. `strength` scales it and may be set before a merge; 0 is exactly off."""

    def __init__(self, model: nn.Module, settings: TDLoRA) -> None:
        super().__init__()
        check_free(settings.name, attached(model), "TDLoRA")
        layers = hosts(model, tuple(settings.roles), settings.skip, "TDLoRA")
        names = list(inspect.signature(type(model).forward).parameters)[1:]
        told = next((n for n in TIMES if n in names), None)
        if told is None:
            raise OrnsteinError(f"{type(model).__name__} is told no time, its arguments are {', '.join(names)}", "Use lora.")
        self.settings, self._strength, self.merged = settings, 1.0, False
        self.__dict__.update(model=model, told=(told, names.index(told)))
        self.fingerprint = mark(model, attached(model))
        self.flags = freeze(model)
        g = torch.Generator().manual_seed(settings.seed)
        self.pairs = nn.ModuleList(Pair(self, path, layer, g) for path, layer in layers.items())
        device, e = self.pairs[0].down.device, settings.experts
        place = (torch.arange(e) + 0.5) / e  # softmax of -2 E^2 (t - place)^2, which is linear in t but for what all share
        weight = torch.zeros(e, 5)
        weight[:, 0] = 4 * e**2 * place
        self.router = nn.Parameter(weight.to(device)) if e > 1 else None
        self.bias = nn.Parameter((-2 * e**2 * place**2).to(device)) if e > 1 else None
        self.handles = [model.register_forward_pre_hook(self.begin, with_kwargs=True),
                        model.register_forward_hook(self.end, always_call=True)]  # fmt: skip

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        check_open(self)
        self._strength = value

    @property
    def scale(self) -> float:
        return self.strength * self.settings.alpha / self.settings.rank

    def weights(self, t: Tensor) -> Tensor:
        """pi [B, E] at what the network is told, [] or [B] or [B, N] (then the mean)."""
        low, high = self.settings.span
        device = self.pairs[0].down.device
        t = t.to(device, torch.float32)
        t = (t.flatten(1).mean(1) if t.ndim > 1 else t.reshape(-1)).sub(low)[:, None] / (high - low)
        if self.router is None:
            return torch.ones(len(t), 1, device=device)
        seen = torch.cat([t, *(f(k * torch.pi * t) for k in (1, 2) for f in (torch.sin, torch.cos))], 1)
        return (seen @ self.router.t() + self.bias).softmax(1)

    def begin(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        name, place = self.told
        t = kwargs[name] if name in kwargs else args[place]
        _NOW.set({**(_NOW.get() or {}), id(self): self.weights(torch.as_tensor(t))})

    def end(self, model: nn.Module, args: tuple, output: Any) -> None:
        _NOW.set({k: v for k, v in (_NOW.get() or {}).items() if k != id(self)})

    def mixture(self, rows: int) -> Tensor:
        """pi of the call in progress, for a layer that sees so many rows."""
        mix = (_NOW.get() or {}).get(id(self))
        if mix is None:
            raise OrnsteinError(f"a layer of '{self.settings.name}' is run outside of its network", "Call the whole network.")
        if len(mix) in (1, rows):
            return mix
        if not bool((mix == mix[:1]).all()):
            raise OrnsteinError(f"a layer sees {rows} rows of {len(mix)} at times of their own", "Sample them at one time.")
        return mix[:1]

    @torch.no_grad()
    def merge(self, t: float | None = None) -> None:
        """Add the term at time t (of the span; None: the mean of the experts) to the weights; originals are kept."""
        if self.merged:
            raise OrnsteinError(f"adapter '{self.settings.name}' is merged already", "Merge once; unmerge() first.")
        if any(o.merged for o in attached(self.model).values()):
            raise OrnsteinError("another adapter of this kind is merged", "Merge one at a time.")
        mix = self.weights(torch.tensor(0.0 if t is None else t))[0]
        mix = torch.full_like(mix, 1 / len(mix)) if t is None else mix
        take_in(self, lambda pair: pair.delta(mix))
        for pair in self.pairs:
            pair.moved = mix
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """The original weights, bit for bit."""
        if not self.merged:
            raise OrnsteinError(f"adapter '{self.settings.name}' cannot be unmerged: it is not merged", "merge() it first.")
        put_back(self.pairs)
        for pair in self.pairs:
            pair.moved = None
        self.merged = False

    def detach(self) -> None:
        """Off the model; what is merged stays for good. The last to go gives back every requires_grad."""
        for handle in (*self.handles, *(pair.handle for pair in self.pairs)):
            handle.remove()
        leave(self, attached(self.model))

    def named(self) -> dict[str, Tensor]:
        """A and B of every layer by its path, and the router."""
        return named(self.pairs) | ({} if self.router is None else {"router.weight": self.router, "router.bias": self.bias})

    def save(self, path: str | Path) -> Path:
        """One safetensors file with the settings and the fingerprint of the model. A strength is not saved."""
        return files.write(path, "td_lora", asdict(self.settings), self.fingerprint, self.named())


@dataclass(frozen=True)
class TDLoRA:
    """Called with a model, attaches an adapter to it, without a copy, and gives the handle. experts=1 is LoRA."""

    rank: int = 4  # r
    alpha: float = 4.0  # the term is scaled by alpha / rank
    experts: int = 3  # E
    roles: tuple[str, ...] = ("qkv", "attention_out")
    skip: Sequence[str] = ()  # paths to leave alone; * stands for anything
    name: str = "default"  # several adapters may sit on one model
    seed: int = 0  # of A
    span: tuple[float, float] = (0.0, 1.0)  # of what the network is told: flow time; (0, 1000) for diffusers' timesteps

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha or self.experts < 1 or self.span[0] == self.span[1]:
            raise OrnsteinError(f"{self!r} does nothing", "Give rank, alpha, experts and the span of times above 0.")

    def __call__(self, model: nn.Module) -> Attached:
        return Attached(model, self)


def attached(model: nn.Module) -> dict[str, Attached]:
    """The adapters of this kind that sit on a model, by name."""
    return of_kind(model, Pair)


def load(path: str | Path, model: nn.Module, any_model: bool = False) -> Attached:
    """Attach a saved adapter. any_model: also to other weights of the same shape, such as the quantised model."""
    return handles.load(path, "td_lora", TDLoRA, model, None if any_model else mark(model, attached(model)))
