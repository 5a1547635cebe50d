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
    found = {}
    for name in layers_by_role(model, roles):
        layer = model.get_submodule(name)
        if hasattr(layer, "in_features") and not any(fnmatch(name, s) for s in skip):
            found[name] = layer
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
