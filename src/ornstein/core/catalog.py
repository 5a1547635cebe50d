"""The catalog without a registry: a method is a file in a room; nothing is imported until it is asked for.

A room file names its parts in `__all__`; the first name is the part that the file is called after. `build` makes a part
from a short text such as `firstblock:threshold=0.1`, which is how plans and the command line speak of parts.
This module never imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import OrnsteinError, unknown

__all__ = ["OWN", "ROOMS", "Entry", "build", "entries", "find", "load", "parse"]

ROOT = Path(__file__).resolve().parent.parent
OWN = "own"  # in the text of a plan, where a part could stand: what a pipeline has itself
ROOMS = ("processes", "backbones", "codecs", "conditioning", "grids", "solvers", "guidance", "steering", "search", "acceleration",
         "tiling", "compression", "adapters", "losses", "editing", "restoration", "perception", "parallel", "metrics", "data",
         "recipes")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One method file. `path` is relative to the package, without the suffix: `losses/pretraining/denoising`."""

    room: str
    name: str
    path: str
    summary: str
    part: str


@cache
def entries(room: str | None = None) -> tuple[Entry, ...]:
    """All entries of a room, or of the house, sorted by path. Unknown room: OrnsteinError."""
    if room is None:
        return tuple(e for r in ROOMS for e in entries(r))
    if room not in ROOMS:
        raise unknown("room", room, ROOMS)
    found = []
    for file in sorted((ROOT / room).rglob("*.py")):
        if file.name.startswith("_") or "layers" in file.relative_to(ROOT).parts:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        path = file.relative_to(ROOT).with_suffix("").as_posix()
        summary = (ast.get_docstring(tree) or "").strip().split("\n")[0]
        found.append(Entry(room, file.stem, path, summary, _first_public(tree, path)))
    return tuple(found)


def _first_public(tree: ast.Module, path: str) -> str:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)[0]
    raise OrnsteinError(f"{path}.py has no __all__", "Its first name must be the part that the file is called after.")


def find(name: str, room: str | None = None) -> Entry:
    """The entry called `name` ('ddim', or 'solvers/ddim' where two rooms share a name)."""
    pool = entries(room)
    hits = [e for e in pool if name in (e.name, e.path)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise OrnsteinError(f"'{name}' is in several rooms: {', '.join(e.path for e in hits)}", "Give the whole path.")
    raise unknown(f"method in {room}/" if room else "method", name, {e.name for e in pool} | {e.path for e in pool})


def load(room: str, name: str) -> Any:
    """Import the file and hand back its part (a class or a function). Errors of the import are never swallowed."""
    entry = find(name, room)
    return getattr(importlib.import_module("ornstein." + entry.path.replace("/", ".")), entry.part)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """'cfg:scale=3,interval=(0,0.8)' -> ('cfg', {'scale': 3, 'interval': (0, 0.8)})."""
    name, _, rest = text.partition(":")
    if not rest:
        return name.strip(), {}
    try:
        call = ast.parse(f"f({rest})", mode="eval").body
        return name.strip(), {k.arg: _literal(k.value) for k in call.keywords if k.arg} | _no_positional(call)
    except (SyntaxError, ValueError) as error:
        raise OrnsteinError(f"cannot read the settings of '{text}'", "Write NAME:key=value,key=value.") from error


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _no_positional(call: ast.Call) -> dict:
    if call.args:
        raise ValueError("positional")
    return {}


def _check_number(part: str, key: str, value: Any, kind: Any) -> None:
    """A field that is annotated as a number gets a finite one."""
    if kind in ("int", "float", int, float):
        whole = kind in ("int", int)
        good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not good or value != value or value in (float("inf"), float("-inf")):
            raise OrnsteinError(f"{key}={value} of {part} is not a {'whole' if whole else 'finite'} number", "Give one.")


def build(room: str, spec: Any, **defaults: Any) -> Any:
    """A part from text ('ddim', 'cfg:scale=3'), from {'name':..., settings}, or the part itself, handed through."""
    if isinstance(spec, dict):
        name, settings = spec["name"], {k: v for k, v in spec.items() if k != "name"}
    elif isinstance(spec, str):
        name, settings = parse(spec)
    else:
        return spec
    part = load(room, name)
    names = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else None
    for key in settings if names is not None else ():
        if key not in names:
            raise unknown(f"setting of {room}/{name}", key, names)
        _check_number(f"{room}/{name}", key, settings[key], next(f.type for f in dataclasses.fields(part) if f.name == key))
    known = {k: v for k, v in defaults.items() if names is None or k in names}
    return part(**(known | settings))
