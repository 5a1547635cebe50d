"""A copy of a network whose blocks are compiled by torch.compile, at the grain at which plugins sit around them.

A plugin is asked outside of compiled code, so that its memory and its clock are no part of a graph: blocks are compiled where
nothing sits inside of them, their branches where a part sits at those. The first call of each batch size takes long.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.sites import find_sites

__all__ = ["compiled", "grain_of"]

GRAINS = ("stage", "block", "branch")


def grain_of(network: nn.Module, plugins: Sequence[Any]) -> str:
    """Where to compile: 'block' (on a U-Net 'stage'), or 'branch' where a plugin sits at a branch. A part inside attention
    leaves nothing to compile around: OrnsteinError."""
    sites = find_sites(network)
    wanted = {site.grain for plugin in plugins for site in plugin.select(sites)}
    if "attention" in wanted:
        names = ", ".join(type(p).__name__ for p in plugins)
        raise OrnsteinError(f"{names} changes the attention, which would lie inside of compiled code", "Leave out one of them.")
    coarse = "stage" if any(s.grain == "stage" for s in sites) else "block"
    return "branch" if "branch" in wanted else coarse


def compiled(network: nn.Module, grain: str) -> nn.Module:
    """The copy. grain: of `grain_of`."""
    made = copy.deepcopy(network)
    for site in find_sites(made):
        if site.grain == grain:
            module = made.get_submodule(site.name)
            module.forward = torch.compile(module.forward, dynamic=False)
    return made
