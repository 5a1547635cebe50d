"""LoRA: a trained low-rank term beside frozen linear layers.

LoRA: Low-Rank Adaptation of Large Language Models, Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, 2021,
arXiv:2106.09685 (eq. 3):

    h = W0 x + (alpha / r) B A x,    A [r, in] random normal, B [out, r] zero, W0 frozen

Costs 2 r (in + out) multiplications a token and layer until merged, then nothing; a merge keeps the original weights.
The term is added by a hook: code that reads `layer.weight` instead of calling the layer does not see it before a merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import fingerprint

from .layers import files
from .layers.hosts import freeze, hosts, restore
from .layers.lowrank import LowRank

__all__ = ["LoRA", "Attached", "attached", "load"]


class Attached(nn.Module):
    """One adapter on one model. `strength` scales it and may be set at any time before a merge; 0 is exactly off."""

    def __init__(self, model: nn.Module, settings: LoRA) -> None:
        super().__init__()
        if settings.name in attached(model):
            raise OrnsteinError(f"the model already has an adapter '{settings.name}'", "Give LoRA(name=...) another.")
        layers = hosts(model, tuple(settings.roles), settings.skip, "LoRA")
        self.settings, self.merge_number, self._strength = settings, 0, 1.0
        self.__dict__["model"] = model
        self.fingerprint = _mark(model)
        self.flags = freeze(model)
        g = torch.Generator().manual_seed(settings.seed)
        self.pairs = nn.ModuleList(LowRank(self, path, layer, settings.rank, g) for path, layer in layers.items())

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if self.merged:
            raise OrnsteinError(f"'{self.settings.name}' is merged at strength {self._strength}", "unmerge() it first.")
        self._strength = value

    @property
    def scale(self) -> float:
        return self.strength * self.settings.alpha / self.settings.rank

    @property
    def merged(self) -> bool:
        return self.merge_number > 0

    @torch.no_grad()
    def merge(self) -> None:
        """Add the term to the weights, for speed. The originals are kept, so that `unmerge` is bit-exact."""
        if self.merged:
            raise OrnsteinError(f"adapter '{self.settings.name}' is merged already", "Merge once; unmerge() first.")
        for pair in self.pairs:
            weight = getattr(pair.layer, "weight", None)
            if weight is None or not weight.is_floating_point():
                what = f"adapter '{self.settings.name}' cannot be merged into the whole numbers of '{pair.path}'"
                raise OrnsteinError(what, "Run it unmerged, or merge it into the float model and quantise that.")
        for pair in self.pairs:
            pair.original = pair.layer.weight.detach().clone()
            pair.layer.weight.data.copy_(pair.original + pair.delta())  # added in the wider type, then rounded
        self.merge_number = 1 + max(o.merge_number for o in attached(self.model).values())

    @torch.no_grad()
    def unmerge(self) -> None:
        """The original weights, bit for bit. Of several merged adapters the last goes first."""
        later = [n for n, o in attached(self.model).items() if o.merge_number > self.merge_number]
        if not self.merged or later:
            why = f"'{later[-1]}' was merged after it" if later and self.merged else "it is not merged"
            raise OrnsteinError(f"adapter '{self.settings.name}' cannot be unmerged: {why}", "The last one goes first.")
        for pair in self.pairs:
            pair.layer.weight.data.copy_(pair.original)
            pair.original = None
        self.merge_number = 0

    def detach(self) -> None:
        """Off the model; merged weights stay merged for good. The last adapter to go gives back every requires_grad."""
        for pair in self.pairs:
            pair.handle.remove()
            pair.original = None
        left = attached(self.model)
        if not left:
            restore(self.model, self.flags)
        for other in left.values():
            other.flags = {n: other.flags[n] or self.flags[n] for n in other.flags}

    def named(self) -> dict[str, Tensor]:
        """A and B of every layer under the names that peft gives them."""
        return {f"{p.path}.lora_{k}.weight": v for p in self.pairs for k, v in (("A", p.down), ("B", p.up))}

    def save(self, path: str | Path) -> Path:
        """One safetensors file with the settings and the fingerprint of the model. A merged strength is not saved."""
        return files.write(path, "lora", asdict(self.settings), self.fingerprint, self.named())


@dataclass(frozen=True)
class LoRA:
    """Called with a model, attaches an adapter to it, without a copy, and gives the handle."""

    rank: int = 8  # r
    alpha: float = 8.0  # the term is scaled by alpha / rank
    roles: tuple[str, ...] = ("qkv", "attention_out")  # the paper adapts attention
    skip: Sequence[str] = ()  # paths to leave alone; * stands for anything
    name: str = "default"  # several adapters may sit on one model
    seed: int = 0  # of A

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha:
            raise OrnsteinError(f"LoRA with rank={self.rank}, alpha={self.alpha} does nothing", "Give both above 0.")

    def __call__(self, model: nn.Module) -> Attached:
        return Attached(model, self)


def attached(model: nn.Module) -> dict[str, Attached]:
    """The adapters that sit on a model, by name."""
    pairs = (getattr(h, "__self__", None) for m in model.modules() for h in m._forward_hooks.values())
    return {p.owner.settings.name: p.owner for p in pairs if isinstance(p, LowRank)}


def load(path: str | Path, model: nn.Module, any_model: bool = False) -> Attached:
    """Attach a saved adapter. any_model: also to other weights of the same shape, such as the quantised model."""
    settings, tensors = files.read(path, "lora", None if any_model else _mark(model))
    adapter = LoRA(**settings)(model)
    try:
        files.fill(adapter.named(), tensors, path)
    except OrnsteinError:
        adapter.detach()
        raise
    return adapter


def _mark(model: nn.Module) -> str:
    """The model's fingerprint from before anything was merged into it."""
    return next((o.fingerprint for o in attached(model).values()), None) or fingerprint(model)
