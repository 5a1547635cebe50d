"""Emoji: Noto colour emoji as captioned RGBA pictures of 32 or 64 pixels, the small text-to-image set of this library.

Noto Emoji by Google (art: Apache-2.0), as packed by the npm package emoji-datasource-google 16.0.0 (its index: MIT).
1429 named pictures, 3044 with skin tones. Flags, keycaps, skin-tone swatches, letters, arrows, signs on coloured
squares and the grey family icons are left out: they are typography, not pictures. The caption is the lower-case name
with the short names that add a word. Pixels are premultiplied: colour times alpha, so that averages, resizing and the
composite over a background are linear.
Held out: about 6 % of the BASE emoji by a stable hash of the base code point; a base takes its genders, skin tones and
directions with it; couples, kisses and the 24 clock faces count as one base each.
204 pictures of 32 px ship with the package, 8 of them in every skin tone as well (`Emoji.subset()`); the rest comes
with one `fetch`.
"""

# budget: three lines over, for the captions, categories and bases that a split is made of.

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ornstein.core.errors import OrnsteinError, unknown

from .layers import emoji_archive, pack
from .layers import emoji_art as art

__all__ = ["Emoji", "fetch", "over"]

PACK_SHA256 = {
    "32": "dedf4b45a8e6a2729db4f1e200f4168c7bb7881ff7c74dddc886631a056fec31",
    "64": "c7c8204a4ecf23a72846462c73b21900905a4add7022a7cae72224934942f6ef",
    "subset": "0c8b81c330b4c8d6ca1b5e208b8055c71a03454ec0e3c51ec4375a6b96ab8188",
}
CACHE = "~/.cache/ornstein/emoji"
REMEDY = "Run `ornstein fetch emoji`, or use the shipped pictures: Emoji(root=None)."


@dataclass(frozen=True)
class Emoji:
    """Captioned RGBA pictures. `images()` [N, 4, size, size] float32 in [-1, 1], colour premultiplied by alpha."""

    size: int = 32  # pixels of a side: 32 or 64
    split: str = "train"  # 'train', 'test' (held-out base emoji) or 'all'
    root: str | Path | None = CACHE  # folder of the packs; None: the shipped subset, 32 px only
    variants: bool = False  # with the five skin tones of each person and hand

    LICENCE: ClassVar[str] = "Apache-2.0 (Noto Emoji, Copyright Google)"
    SOURCE: ClassVar[str] = f"npm {emoji_archive.PACKAGE}"
    SHA256: ClassVar[str] = emoji_archive.ARCHIVE_SHA256

    def __post_init__(self) -> None:
        if self.split not in ("train", "test", "all"):
            raise unknown("split", self.split, ("train", "test", "all"))
        if self.size not in ((32,) if self.root is None else (32, 64)):
            raise OrnsteinError(f"no emoji of {self.size} px", "Choose 32, or 64 after `ornstein fetch emoji`.")

    @classmethod
    def subset(cls, split: str = "all", variants: bool = False) -> Emoji:
        """The 204 pictures that ship with the package (244 with variants); never touches the network."""
        return cls(32, split, None, variants)

    @cached_property
    def _rows(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """(pixels [N, 4, H, W] uint8, one dict per picture) of this split."""
        folder = Path(__file__).parent / "emoji_subset" if self.root is None else Path(self.root).expanduser()
        key = "subset" if self.root is None else str(self.size)
        pixels, table = pack.read(folder / f"emoji-{self.size}.npz", PACK_SHA256[key], REMEDY)
        rows = [dict(zip(table, values)) for values in zip(*table.values())]
        wanted = {"train": (False,), "test": (True,), "all": (False, True)}[self.split]
        kept = [i for i, r in enumerate(rows) if (self.variants or not r["tone"]) and art.held_out(r["base"]) in wanted]
        return pixels[kept], [rows[i] for i in kept]

    def __len__(self) -> int:
        return len(self._rows[1])

    def _column(self, key: str) -> list[str]:
        return [row[key] for row in self._rows[1]]

    @property
    def captions(self) -> list[str]:
        """Name and the short names that add a word: 'collision, boom'."""
        return self._column("caption")

    @property
    def categories(self) -> list[str]:
        """'Food & Drink', 'Smileys & Emotion', ... one per picture."""
        return self._column("category")

    @property
    def codes(self) -> list[str]:
        """Unified code points, '1F34E' or '1F468-200D-1F373'."""
        return self._column("code")

    @property
    def bases(self) -> list[str]:
        """What the split keeps together: the code without skin tone, gender and direction."""
        return self._column("base")

    @property
    def labels(self) -> Tensor:
        """[N] long: index of the category in the sorted tuple of all eight, the same in every split."""
        return torch.tensor([art.CATEGORIES.index(c) for c in self.categories], dtype=torch.long)

    def prompt(self, index: int) -> str:
        """The clean name of one picture: 'red apple'."""
        return self._rows[1][index]["name"]

    def images(self, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """[N, 4, H, W] float32 in [-1, 1], premultiplied; all of them or those of `indices`."""
        pixels = self._rows[0] if indices is None else self._rows[0][np.asarray(indices)]
        return torch.from_numpy(pixels).float().div_(127.5).sub_(1.0)

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Any]:
        """{'images': [B, 4, H, W], 'captions': list of B}."""
        return {"images": self.images(indices), "captions": [self._rows[1][int(i)]["caption"] for i in indices]}


def over(images: Tensor, background: float = 1.0) -> Tensor:
    """[..., 4, H, W] premultiplied in [-1, 1] -> [..., 3, H, W] over a grey background (1 white, -1 black)."""
    colour, alpha = (images[..., :3, :, :] + 1) / 2, (images[..., 3:, :, :] + 1) / 2
    return (colour + (1 - alpha) * (background + 1) / 2) * 2 - 1


def fetch(
    root: str | Path = CACHE,
    archive: str | Path | None = None,
    sizes: Sequence[int] = (32, 64),
    progress: Callable[[float, str], None] | None = None,
) -> list[Path]:
    """Build emoji-<size>.npz under `root` from the npm package or an `archive` of it; `progress(share, words)`."""
    tell = progress or (lambda share, words: None)
    if not sizes or not set(sizes) <= {32, 64}:
        raise OrnsteinError(f"no emoji of {tuple(sizes)} px", "Choose 32, 64 or both.")
    with tempfile.TemporaryDirectory() as folder:
        if archive is None:
            tell(0.0, f"npm pack {emoji_archive.PACKAGE} (74 MB)")
            archive = emoji_archive.download(folder)
        emoji_archive.check(Path(archive))
        tell(0.5, "reading the pictures")
        table, exact = emoji_archive.read(Path(archive))
    paths = [Path(root).expanduser() / f"emoji-{size}.npz" for size in sizes]
    for path, size in zip(paths, sizes):
        pixels = art.quantise(exact if size == 64 else art.halve(exact))
        if pack.digest(pixels, table) != PACK_SHA256[str(size)]:
            raise OrnsteinError(f"the pictures of {size} px came out different", "Install a current Pillow and numpy.")
        pack.write(path, pixels, table)
        tell(1.0 if path == paths[-1] else 0.85, f"wrote {path.name}")
    return paths
