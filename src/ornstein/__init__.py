"""ornstein: every published way to make a diffusion model, speed it up, shrink it, steer it, with its measured cost.

    import ornstein
    model = ornstein.load("emoji")
    pictures = model.generate(["a red apple", "a sleepy cat"]).images

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "ornstein.model", "Model": "ornstein.model", "sample": "ornstein.core.loop", "attach": "ornstein.core.seam",
    "Denoiser": "ornstein.core.denoiser", "guide": "ornstein.core.denoiser", "NoiseSource": "ornstein.core.clock",
    "Plan": "ornstein.core.plan", "fingerprint": "ornstein.core.plan", "Run": "ornstein.core.seam",
    "OrnsteinError": "ornstein.core.errors", "build": "ornstein.core.catalog",
}  # fmt: skip
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ornstein' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
