"""Whether what parts of a plan have learned was learned for this use: the model, its process, guidance, grid and shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ornstein.core.artefact import Artefact, describe

__all__ = ["misfits"]


def misfits(parts: Sequence[Any], denoiser: Any, grid: str, shape: Sequence[int]) -> list[str]:
    """Why a part's calibration is not for this denoiser (guided, uncompressed), grid and shape of a latent; empty where all
    fit. What an artefact does not say it was made for is not asked."""
    now, found = describe(denoiser, grid, shape), []
    for part in filter(is_dataclass, parts):
        for name in (f.name for f in fields(part)):
            made = _made_for(getattr(part, name))
            found += [f"{type(part).__name__} was calibrated for {what} '{told}', not for '{now[what]}'"
                      for what, told in made.items() if told and now.get(what) and told != now[what]]  # fmt: skip
    return found


def _made_for(value: Any) -> dict[str, str]:
    if isinstance(value, (str, Path)) and str(value).endswith(".safetensors") and Path(value).is_file():
        try:
            with safe_open(value, "pt") as file:
                return json.loads((file.metadata() or {})["artefact"])["made_for"]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return {}  # the part itself says what is wrong with its file
    return dict(value.made_for) if isinstance(value, Artefact) else {}
