"""Choose layers by role, put others in their place (in a copy or in place), count the bytes of a state dict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from torch import nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.roles import layers_by_role

__all__ = ["chosen", "counted_bytes", "stored_bytes", "swap"]


def chosen(model: nn.Module, roles: tuple[str, ...], skip: Sequence[str], kinds: tuple[type, ...], min_size: int,
           part: str) -> dict[str, nn.Module]:  # fmt: skip
    """Path -> layer of exactly one of `kinds`, of these roles and at least `min_size` weights. None: OrnsteinError."""
    if not roles:
        raise OrnsteinError(f"{part} with roles=() does nothing", "Name the roles, or drop the transform.")
    found, small = {}, 0
    for name in layers_by_role(model, roles):
        layer = model.get_submodule(name)
        if type(layer) not in kinds or any(fnmatch(name, s) for s in skip):
            continue
        if layer.weight.numel() < min_size:
            small += 1
            continue
        if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
            raise OrnsteinError(f"layer '{name}' carries a hook, an adapter or a plugin that {part} would lose",
                                "Merge or detach it first, transform, and attach it again.")  # fmt: skip
        found[name] = layer
    if not found:
        why = f"{small} are smaller than min_size={min_size}" if small else f"roles are {', '.join(roles)}"
        raise OrnsteinError(f"{part} matched no layer of {type(model).__name__} ({why})",
                            "Change roles, skip or min_size; layers compressed already do not count.")  # fmt: skip
    return found


def swap(model: nn.Module, layers: dict[str, nn.Module], make: Callable[[str, nn.Module], nn.Module],
         inplace: bool) -> nn.Module:  # fmt: skip
    """Every layer replaced by make(name, layer), wherever it appears. The copy never copies what it replaces."""
    new = {id(layer): make(name, layer) for name, layer in layers.items()}
    if id(model) in new:
        raise OrnsteinError("the model is itself the layer to replace", "Wrap it: nn.Sequential(layer).")
    if not inplace:
        return copy.deepcopy(model, new).eval()
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            parent._modules[key] = new.get(id(child), child)
    return model.eval()


def counted_bytes(model: nn.Module) -> int:
    """Bytes added up module by module; a compressed layer says its own `reported_bytes`, from its formula."""
    whole = 0
    for _, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "reported_bytes"):
            whole += module.reported_bytes
            continue
        kept = {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
        kept = [v for v in (kept | module._parameters).values() if v is not None]
        whole += sum(v.numel() * v.element_size() for v in kept)
    return whole


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in the state dict, tied ones counted as often as they are written."""
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())
