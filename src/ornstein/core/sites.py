"""Sites: the named places of a network where a plugin may sit, found in any nn.Module.

Native modules declare a `seat`. Other people's blocks are read: the names of what a block returns stand in its own
`return` statement. A block that cannot be read is refused with the one line that declares it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from torch import nn

from .errors import OrnsteinError

__all__ = ["GRAINS", "Seat", "Site", "find_sites"]

GRAINS = ("network", "stage", "block", "branch", "attention")
_BRANCH_ROLES = (("mlp", re.compile(r"^(\w+_)?(ff|ffn|mlp|feed_forward)(_\w+)?$")),
                 ("cross_attention", re.compile(r"attn2$|cross_att")), ("attention", re.compile(r"(^|_)(attn|attention)\d?$")))
_PARTS = {"down": 0, "mid": 1, "up": 2}  # of a U-Net, in the order of computation


@dataclass(frozen=True)
class Seat:
    """What a module class says of itself. streams: what it hands on; those that are also arguments are residual."""

    grain: str
    role: str = ""
    streams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """One place. name: the module's path ('' is the whole network); role: block, down, mid, up, attention, mlp, ...;
    stage: which run of blocks with the same streams; index and count: place among the blocks of the stage;
    depth: place among all blocks (a branch has its block's); streams: names of outputs by arity."""

    name: str
    grain: str
    role: str
    stage: int = 0
    index: int = 0
    count: int = 1
    depth: int = 0
    streams: tuple[tuple[str, ...], ...] = ()


def find_sites(model: nn.Module, seats: Mapping[str, Seat] | None = None) -> list[Site]:
    """All sites of a network in the order of its modules. seats: class name -> Seat, where a block cannot be read."""
    seats = dict(seats or {})
    blocks = list(_blocks(model, seats))
    found = [Site("", "network", "network", streams=(("out",),))]
    stages: list[list[tuple[str, nn.Module, Seat]]] = []
    for name, module, seat in blocks:
        key = (name.rpartition(".")[0], seat.grain)
        if seat.grain == "stage" or not stages or (stages[-1][0][0].rpartition(".")[0], stages[-1][0][2].grain) != key:
            stages.append([])
        stages[-1].append((name, module, seat))
    depth = 0
    stages.sort(key=lambda members: _PARTS.get(members[0][2].role, 0))
    for number, members in enumerate(stages):
        for index, (name, module, seat) in enumerate(members):
            site = Site(name, seat.grain, seat.role or "block", number, index, len(members), depth, _streams(module, seat))
            found += [site, *_branches(site, module, seats)]
            depth += 1
    if depth == 0:
        raise OrnsteinError(f"no blocks were found in {type(model).__name__}",
                            'Name them: seats={"YourBlock": Seat("block", streams=("hidden_states",))}.')  # fmt: skip
    return found


def _blocks(model: nn.Module, seats: dict[str, Seat]) -> Iterator[tuple[str, nn.Module, Seat]]:
    taken: list[str] = []
    unet = hasattr(model, "down_blocks") and hasattr(model, "up_blocks")
    for name, module in model.named_modules():
        if not name or any(name.startswith(t + ".") for t in taken):
            continue
        parent, _, leaf = name.rpartition(".")
        seat = _declared(module, seats)
        if seat is None and unet and (parent in ("down_blocks", "up_blocks") or name == "mid_block"):
            seat = Seat("stage", name.split("_")[0])
        elif seat is None and leaf.isdigit() and "." not in parent and _is_block(module, model.get_submodule(parent)):
            seat = Seat("block", "block")
        if seat is not None and seat.grain in ("block", "stage"):
            taken.append(name)
            yield name, module, seat


def _declared(module: nn.Module, seats: dict[str, Seat]) -> Seat | None:
    return seats.get(type(module).__name__) or getattr(type(module), "seat", None)


def _is_block(module: nn.Module, parent: nn.Module) -> bool:
    """An element of a ModuleList that takes and hands on a hidden state: 'Block' or 'Layer' in its class name, with
    sub-branches of its own."""
    named = any(w in type(module).__name__ for w in ("Block", "Layer", "Transformer"))
    return isinstance(parent, nn.ModuleList) and named and any(True for _ in module.children())


def _branches(block: Site, module: nn.Module, seats: dict[str, Seat]) -> Iterator[Site]:
    taken: list[str] = []
    for name, child in module.named_modules():
        if not name or any(name.startswith(t + ".") for t in taken):
            continue
        seat = _declared(child, seats)
        role = seat.role if seat else _branch_role(name.rpartition(".")[2], child)
        if role and (seat is None or seat.grain == "branch"):
            taken.append(name)
            site = replace(block, name=f"{block.name}.{name}", grain="branch", role=role, streams=(("out",),))
            yield site
            if "attention" in role and "Linear" not in type(getattr(child, "processor", None)).__name__:
                yield replace(site, grain="attention")


def _branch_role(leaf: str, module: nn.Module) -> str:
    """By name, else by class; what a module says of itself as to cross-attention is believed."""
    if isinstance(module, nn.ModuleList) or next(module.children(), None) is None:
        return ""
    role = next((r for r, rule in _BRANCH_ROLES if rule.search(leaf)), "")
    role = role or ("attention" if type(module).__name__.endswith(("Attention", "Attn")) else "")
    cross = getattr(module, "is_cross_attention", None)
    return role if "attention" not in role or cross is None else "cross_attention" if cross else "attention"


def _streams(module: nn.Module, seat: Seat) -> tuple[tuple[str, ...], ...]:
    names = (seat.streams,) if seat.streams else returned_names(type(module))
    parameters = inspect.signature(type(module).forward).parameters
    if not names or not any(n in parameters for group in names for n in group):
        kind = type(module).__name__
        raise OrnsteinError(f"the streams of {kind} cannot be read from its return statement",
                            f'Declare them: seats={{"{kind}": Seat("{seat.grain}", streams=("hidden_states",))}}.')  # fmt: skip
    return names


@cache
def returned_names(kind: type) -> tuple[tuple[str, ...], ...]:
    """The names in the return statements of kind.forward, one group per arity; () where they are not plain names."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.forward)))
    except (OSError, TypeError, SyntaxError):
        return ()
    groups: dict[int, tuple[str, ...]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if all(isinstance(p, ast.Name) for p in parts):
                groups.setdefault(len(parts), tuple(p.id for p in parts))
    return tuple(groups.values())
