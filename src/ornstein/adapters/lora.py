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

from .layers import files, handles
from .layers.handles import check_free, check_open, leave, mark, named, of_kind, put_back, take_in
from .layers.hosts import freeze, hosts
from .layers.lowrank import LowRank

__all__ = ["LoRA", "Attached", "attached", "load"]


class Attached(nn.Module):
    """One adapter on one model. `strength` scales it and may be set at any time before a merge; 0 is exactly off."""

    def __init__(self, model: nn.Module, settings: LoRA) -> None:
        super().__init__()
        check_free(settings.name, attached(model), "LoRA")
        layers = hosts(model, tuple(settings.roles), settings.skip, "LoRA")
        self.settings, self.merge_number, self._strength = settings, 0, 1.0
        self.__dict__["model"] = model
        self.fingerprint = mark(model, attached(model))
        self.flags = freeze(model)
        g = torch.Generator().manual_seed(settings.seed)
        self.pairs = nn.ModuleList(LowRank(self, path, layer, settings.rank, g) for path, layer in layers.items())

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

    @property
    def merged(self) -> bool:
        return self.merge_number > 0

    @torch.no_grad()
    def merge(self) -> None:
        """Add the term to the weights, for speed. The originals are kept, so that `unmerge` is bit-exact."""
        if self.merged:
            raise OrnsteinError(f"adapter '{self.settings.name}' is merged already", "Merge once; unmerge() first.")
        take_in(self, LowRank.delta)
        self.merge_number = 1 + max(o.merge_number for o in attached(self.model).values())

    @torch.no_grad()
    def unmerge(self) -> None:
        """The original weights, bit for bit. Of several merged adapters the last goes first."""
        later = [n for n, o in attached(self.model).items() if o.merge_number > self.merge_number]
        if not self.merged or later:
            why = f"'{later[-1]}' was merged after it" if later and self.merged else "it is not merged"
            raise OrnsteinError(f"adapter '{self.settings.name}' cannot be unmerged: {why}", "The last one goes first.")
        put_back(self.pairs)
        self.merge_number = 0

    def detach(self) -> None:
        """Off the model; merged weights stay merged for good. The last adapter to go gives back every requires_grad."""
        for pair in self.pairs:
            pair.handle.remove()
            pair.original = None
        leave(self, attached(self.model))

    def named(self) -> dict[str, Tensor]:
        """A and B of every layer under the names that peft gives them."""
        return named(self.pairs)

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
    return of_kind(model, LowRank)


def load(path: str | Path, model: nn.Module, any_model: bool = False) -> Attached:
    """Attach a saved adapter. any_model: also to other weights of the same shape, such as the quantised model."""
    return handles.load(path, "lora", LoRA, model, None if any_model else mark(model, attached(model)))
