"""Digits: 1797 hand-written digits of 8 x 8 pixels and 17 grey levels, the smallest real image set; it ships.

"Optical Recognition of Handwritten Digits", E. Alpaydin, C. Kaynak, 1998, UCI Machine Learning Repository (CC BY 4.0),
in the form that scikit-learn distributes (BSD-3-Clause, Copyright the scikit-learn developers): the ink of blocks of
4 x 4 bits, counted 0..16.
Split: of each class the last 20 % in file order are the test set; the order is that of the original file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ornstein.core.errors import unknown

from .layers import pack

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits:
    """`images()` [N, 1, 8, 8] float32 in [-1, 1] (-1 paper, 1 ink), `labels` [N] long in 0..9."""

    split: str = "train"  # 'train' (first 80 % of each class), 'test' (last 20 %) or 'all'

    LICENCE: ClassVar[str] = "CC BY 4.0 (UCI data set); BSD-3-Clause (scikit-learn's form)"
    SOURCE: ClassVar[str] = "scikit-learn, sklearn.datasets.load_digits"
    SHA256: ClassVar[str] = "ec250900bc3270e8c1ba10ee32cedec3d6bd09f0637d94e54aa637238fc00edd"
    classes: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.split not in ("train", "test", "all"):
            raise unknown("split", self.split, ("train", "test", "all"))

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        pixels, table = pack.read(Path(__file__).parent / "digits.npz", self.SHA256, "Install ornstein again.")
        labels = np.array(table["label"], np.int64)
        test = np.zeros(len(labels), bool)
        for label in range(self.classes):
            of = np.flatnonzero(labels == label)
            test[of[len(of) - len(of) // 5 :]] = True
        kept = {"train": ~test, "test": test, "all": np.ones_like(test)}[self.split]
        return pixels[kept], labels[kept]

    def __len__(self) -> int:
        return len(self._rows[1])

    @property
    def labels(self) -> Tensor:
        """[N] long: the digit."""
        return torch.from_numpy(self._rows[1].copy())

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """[N, 1, 8, 8] float32 in [-1, 1]; all of them or those of `indices`."""
        pixels = self._rows[0] if indices is None else self._rows[0][np.asarray(indices)]
        return torch.from_numpy(pixels).float().div_(8).sub_(1)[:, None]

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Any]:
        """{'images': [B, 1, 8, 8], 'labels': [B]}."""
        return {"images": self.images(indices), "labels": self.labels[torch.as_tensor(indices)]}
