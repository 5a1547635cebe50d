"""The layers an adapter may sit on, found by role in float and quantised networks, and the freezing of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.roles import layers_by_role

__all__ = ["freeze", "hosts", "restore"]


def hosts(model: nn.Module, roles: tuple[str, ...], skip: Sequence[str], part: str) -> dict[str, nn.Module]:
    """Path -> layer with in_features and out_features (linear, float or quantised) of these roles. None: error."""
    outline, layers = nn.Module(), {}
    for name, layer in model.named_modules():
        if name and hasattr(layer, "in_features") and hasattr(layer, "out_features"):
            layers[name] = layer
            node = outline  # the same names with a tensor-free linear at each: int8 layers have no .weight
            *above, last = name.split(".")
            for step in above:
                if step not in node._modules:
                    node.add_module(step, nn.Module())
                node = node._modules[step]
            node.add_module(last, nn.Linear(1, 1, bias=False, device="meta"))
    found = layers_by_role(outline, roles)
    found = {n: layers[n] for n in found if not any(fnmatch(n, s) for s in skip)}
    if not found:
        raise OrnsteinError(f"{part} matched no linear layer of {type(model).__name__} (roles are {', '.join(roles)})",
                            "Change roles or skip.")  # fmt: skip
    return found


def freeze(model: nn.Module) -> dict[str, bool]:
    """Every parameter frozen; what each was before."""
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    model.requires_grad_(False)
    return flags


def restore(model: nn.Module, flags: dict[str, bool]) -> None:
    """Each parameter back to what it was."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))
