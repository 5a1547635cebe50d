"""What the handle of every adapter does alike: who sits on a model, taking terms into weights and back, leaving, loading.

A handle has `settings` with a name, `model`, `flags`, `fingerprint`, `pairs`; a pair has `owner`, `path`, `layer`, `original`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import fingerprint

from . import files
from .hosts import restore

__all__ = ["check_free", "check_open", "leave", "load", "mark", "named", "of_kind", "put_back", "take_in"]


def of_kind(model: nn.Module, kind: type) -> dict[str, Any]:
    """The handles whose pairs, of this class, sit on a model, by name."""
    pairs = (getattr(h, "__self__", None) for m in model.modules() for h in m._forward_hooks.values())
    return {p.owner.settings.name: p.owner for p in pairs if isinstance(p, kind)}


def mark(model: nn.Module, others: Mapping[str, Any]) -> str:
    """The model's fingerprint from before anything was merged into it."""
    return next((o.fingerprint for o in others.values()), None) or fingerprint(model)


def check_free(name: str, others: Mapping[str, Any], kind: str) -> None:
    """No other adapter of this kind has the name."""
    if name in others:
        raise OrnsteinError(f"the model already has an adapter '{name}'", f"Give {kind}(name=...) another.")


def check_open(handle: Any) -> None:
    """It is not merged, so that its strength may be set."""
    if handle.merged:
        raise OrnsteinError(f"'{handle.settings.name}' is merged at strength {handle.strength}", "unmerge() it first.")


def take_in(handle: Any, delta: Callable[[Any], Tensor]) -> None:
    """Add delta(pair) [out, in] to the weights and keep the originals; whole numbers are refused before any is touched."""
    for pair in handle.pairs:
        weight = getattr(pair.layer, "weight", None)
        if weight is None or not weight.is_floating_point():
            what = f"adapter '{handle.settings.name}' cannot be merged into the whole numbers of '{pair.path}'"
            raise OrnsteinError(what, "Run it unmerged, or merge it into the float model and quantise that.")
    for pair in handle.pairs:
        pair.original = pair.layer.weight.detach().clone()
        pair.layer.weight.data.copy_(pair.original + delta(pair))  # added in the wider type, then rounded


def put_back(pairs: Sequence[Any]) -> None:
    """The original weights, bit for bit."""
    for pair in pairs:
        pair.layer.weight.data.copy_(pair.original)
        pair.original = None


def leave(handle: Any, left: Mapping[str, Any]) -> None:
    """After its hooks are gone. left: the handles that stay; the last to go gives back every requires_grad."""
    if not left:
        restore(handle.model, handle.flags)
    for other in left.values():
        other.flags = {n: other.flags[n] or handle.flags[n] for n in other.flags}


def named(pairs: Sequence[Any]) -> dict[str, Tensor]:
    """A and B of every layer under the names that peft gives them."""
    return {f"{p.path}.lora_{k}.weight": v for p in pairs for k, v in (("A", p.down), ("B", p.up))}


def load(path: str | Path, kind: str, part: Callable[..., Any], model: nn.Module, wanted: str | None) -> Any:
    """Attach what a file of this kind holds. wanted: the fingerprint it must be of; None: any of the same shape."""
    settings, tensors = files.read(path, kind, wanted)
    adapter = part(**settings)(model)
    try:
        files.fill(adapter.named(), tensors, path)
    except OrnsteinError:
        adapter.detach()
        raise
    return adapter
