"""Functions that only assemble parts. A training recipe takes its settings as keyword arguments and returns a Training.

Its argument `settings` has a whole Settings as default: how this training is usually run.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown

__all__ = ["path_of", "prepare"]


def path_of(recipe: str) -> str:
    """'digits', 'train_digits' or 'recipes/train_digits' -> 'recipes/train_digits'."""
    known = {}
    for entry in catalog.entries("recipes"):
        known |= {entry.name.removeprefix("train_"): entry.path, entry.name: entry.path, entry.path: entry.path}
    if recipe not in known:
        raise unknown("recipe", recipe, [e.name.removeprefix("train_") for e in catalog.entries("recipes")])
    return known[recipe]


def prepare(recipe: str, settings: Mapping[str, Any]) -> Any:
    """The Training of a recipe with changes: texts (or values) for the recipe's own arguments and for the Settings."""
    from ornstein.train import Settings

    assemble = catalog.load("recipes", path_of(recipe))
    if "settings" not in inspect.signature(assemble).parameters:
        what = f"the recipe '{recipe}' takes pictures as tensors, not settings"
        raise OrnsteinError(what, f"Call it from Python: ornstein.{path_of(recipe).replace('/', '.')}.")
    own = {k: p for k, p in inspect.signature(assemble).parameters.items() if k != "settings"}
    kinds = typing.get_type_hints(assemble)
    shared = {f.name: typing.get_type_hints(Settings)[f.name] for f in fields(Settings)}
    for key in settings:
        if key not in own and key not in shared:
            raise unknown(f"setting of {recipe}", key, [*own, *shared])
    usual = inspect.signature(assemble).parameters["settings"].default or Settings()
    changes = {k: _converted(k, v, shared[k], getattr(usual, k)) for k, v in settings.items() if k in shared}
    mine = {k: _converted(k, v, kinds.get(k, str), own[k].default) for k, v in settings.items() if k in own}
    return assemble(**mine, settings=replace(usual, **changes))


def _converted(key: str, value: Any, kind: Any, default: Any) -> Any:
    """A text as a value of the annotated kind (str, int, float, bool, or a tuple or list of literals)."""
    if kind is str:
        return str(value)
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        found = value
    whole = isinstance(found, float) and found.is_integer()
    if kind is int and whole:  # 1e3
        found = int(found)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    plain = typing.get_origin(kind) or kind
    if isinstance(plain, type) and (not isinstance(found, plain) or (plain is int and isinstance(found, bool))):
        words = {int: "a whole number", float: "a number", bool: "True or False"}.get(plain, plain.__name__)
        raise OrnsteinError(f"{key}={value} is not {words}", f"Write {key}={default}, for instance.")
    return found
