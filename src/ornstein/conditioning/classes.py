"""Classes: a class label as condition, with one index past the last for "no class".

The label dropped for classifier-free guidance is an embedding row of its own, as in "Classifier-Free Diffusion
Guidance", Jonathan Ho, Tim Salimans, 2022, arXiv:2207.12598 (the null token).
The backbone owns the table of classes + 1 rows.
Cost: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown

__all__ = ["Classes"]


@dataclass(frozen=True)
class Classes:
    """Labels or names -> {'label' [B] long in 0..classes-1}; the null condition is the label `classes`."""

    classes: int = 10  # how many; label `classes` is the null condition, so that a table needs classes + 1 rows
    names: tuple[str, ...] = ()  # one per class, where labels may be given by name
    device: str | torch.device = "cpu"  # where the labels lie

    dim = 0  # an index has no width: the backbone embeds it
    length = 1  # one label a sample

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise OrnsteinError(f"classes={self.classes} leaves nothing to choose", "Give 1 or more.")
        if self.names and len(set(self.names)) != self.classes:
            what = f"{len(set(self.names))} different names for {self.classes} classes"
            raise OrnsteinError(what, "Give one per class.")

    def __call__(self, inputs: Sequence[int | str] | Tensor) -> dict[str, Tensor]:
        """Check every label and hand them back as {'label': [B]}."""
        if isinstance(inputs, Tensor):
            inputs = inputs.tolist()
        return {"label": torch.tensor([self._label(x) for x in inputs], dtype=torch.long, device=self.device)}

    def null(self, batch: int) -> dict[str, Tensor]:
        """The unconditional condition: the index one past the last class."""
        return {"label": torch.full((batch,), self.classes, dtype=torch.long, device=self.device)}

    def _label(self, given: int | str) -> int:
        if isinstance(given, str):
            if given not in self.names:
                raise unknown("class", given, self.names or map(str, range(self.classes)))
            return self.names.index(given)
        if isinstance(given, bool) or not hasattr(given, "__index__"):
            raise OrnsteinError(f"{given!r} is no class label", "Give whole numbers or names.")
        if not 0 <= given < self.classes:
            raise OrnsteinError(f"label {given} is outside 0..{self.classes - 1}", "Use null(batch) for 'no class'.")
        return int(given)
