"""Pictures for people: PNG files with readable names and a contact sheet with the prompts under the pictures.

A folder of pictures appears whole or not at all: it is written beside its place and moved there.
Pictures are uint8 arrays [H, W, C] with C = 1 (grey), 3 (colour) or 4 (colour and straight alpha).
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ornstein.core.errors import OrnsteinError
from ornstein.core.record import write_atomic

__all__ = ["contact_sheet", "folder", "png", "save"]

SHEET, RECORD = "contact-sheet.png", "record.json"
INK, PAPER, SQUARES = (40, 40, 46), (255, 255, 255), (236, 236, 240)


def picture(array: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] or [H, W] -> a PIL picture in mode L, RGB or RGBA."""
    array = np.asarray(array)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise OrnsteinError(f"a {array.dtype} array of shape {array.shape} is not a picture",
                            "Give uint8 [H, W, C] with 1, 3 or 4 channels.")  # fmt: skip
    return Image.fromarray(array)


def png(image: Image.Image | np.ndarray) -> bytes:
    """The bytes of a PNG file."""
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else picture(image)).save(data, "PNG")
    return data.getvalue()


def over(image: Image.Image, checker: bool = False, square: int = 8) -> Image.Image:
    """The picture in RGB, over white or over a checkerboard that shows where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGB", image.size, PAPER)
    if checker:
        rows, columns = np.indices((image.height, image.width)) // square
        board = np.where(((rows + columns) % 2)[..., None], np.uint8(SQUARES), np.uint8(PAPER))
        paper = Image.fromarray(board.astype(np.uint8))
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def contact_sheet(images: Sequence[np.ndarray], labels: Sequence[str] = (), path: str | Path | None = None,
                  columns: int | None = None, side: int = 128, checker: bool = False) -> Image.Image:  # fmt: skip
    """All pictures in rows, each about `side` pixels wide, its label under it; `path`: also write it as PNG.

    Small pictures are enlarged by a whole number: below 32 px with sharp pixels, since those are the truth.
    """
    if not len(images):
        raise OrnsteinError("no pictures for a contact sheet", "Give at least one.")
    if labels and len(labels) != len(images):
        raise OrnsteinError(f"{len(labels)} labels for {len(images)} pictures", "Give one label per picture.")
    tiles = [picture(i) for i in images]
    scale = max(1, round(side / max(t.width for t in tiles)))
    how = Image.Resampling.NEAREST if max(t.width for t in tiles) < 32 else Image.Resampling.LANCZOS
    tiles = [over(t.resize((t.width * scale, t.height * scale), how), checker) for t in tiles]
    columns = columns or min(len(tiles), 8, max(1, round(len(tiles) ** 0.5 * 1.3)))
    sheet = _lay_out(tiles, [_wrapped(label) for label in labels] or [""] * len(tiles), columns)
    if path is not None:
        write_atomic(path, png(sheet))
    return sheet


def _wrapped(label: str, width: int = 18, lines: int = 2) -> str:
    """The label in at most two lines of about the width of a picture."""
    return "\n".join(textwrap.wrap(label, width, max_lines=lines, placeholder=" …"))


def _lay_out(tiles: Sequence[Image.Image], labels: Sequence[str], columns: int, gap: int = 10) -> Image.Image:
    wide, high = max(t.width for t in tiles), max(t.height for t in tiles)
    font = ImageFont.load_default(size=11)
    under = 15 * max(label.count("\n") + 1 for label in labels) if any(labels) else 0
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (gap + columns * (wide + gap), gap + rows * (high + under + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (tile, label) in enumerate(zip(tiles, labels)):
        x, y = gap + i % columns * (wide + gap), gap + i // columns * (high + under + gap)
        sheet.paste(tile, (x + (wide - tile.width) // 2, y))
        draw.multiline_text((x + wide // 2, y + high + 3), label, INK, font, anchor="ma", align="center", spacing=2)
    return sheet


def names(labels: Sequence[str]) -> list[str]:
    """File names that sort in order and say what is in them: 00-a-red-apple.png."""
    digits = max(2, len(str(len(labels) - 1)))
    slugs = [re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40].strip("-") for label in labels]
    return [f"{i:0{digits}d}-{slug or 'picture'}.png" for i, slug in enumerate(slugs)]


@contextmanager
def folder(place: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """with folder('out') as part: what is written into `part` becomes `place` if the block ends well, else vanishes.

    A place that cannot be written, or holds something already, is refused before any work is done. With `overwrite`,
    files of the same name are replaced, and so are those of the run that the place records.
    """
    place = Path(place).expanduser().absolute()
    if place.is_dir() and any(place.iterdir()) and not overwrite:
        raise OrnsteinError(f"the folder {place} is not empty", "Choose another with --out, or add --overwrite.")
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    made = [p for p in place.parents if not p.exists()]
    try:
        part.mkdir(parents=True)
        if place.exists():
            (place / part.name).mkdir()
            (place / part.name).rmdir()
    except OSError as error:
        _forget(part, made)
        raise OrnsteinError(f"cannot write to {place}: {error.strerror}", "Choose another with --out.") from error
    try:
        yield part
        _move(part, place)
    finally:
        _forget(part, made)


def _forget(part: Path, made: Sequence[Path]) -> None:
    """Take `part` away, and the folders that were made on the way to it if nothing came to stand in them."""
    shutil.rmtree(part, ignore_errors=True)
    for parent in made:
        try:
            parent.rmdir()
        except OSError:
            return


def _move(part: Path, place: Path) -> None:
    if not place.exists():
        part.rename(place)
        return
    fresh = sorted(part.iterdir())
    for old in _recorded(place):
        if old not in [f.name for f in fresh]:
            (place / old).unlink(missing_ok=True)
    for file in fresh:
        file.replace(place / file.name)


def _recorded(place: Path) -> list[str]:
    """The names of the files that an earlier run wrote here, by its own record; never a path that leads elsewhere."""
    try:
        files = json.loads((place / RECORD).read_text(encoding="utf-8"))["files"]
        return [f for f in files if isinstance(f, str) and Path(f).name == f]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save(part: Path, images: Sequence[np.ndarray], labels: Sequence[str], record: Mapping[str, Any],
         checker: bool = False) -> list[str]:  # fmt: skip
    """PNG files, contact sheet and record into the folder `part`; hands back the names of the files."""
    files = names(labels)
    for name, image in zip(files, images):
        (part / name).write_bytes(png(image))
    (part / SHEET).write_bytes(png(contact_sheet(images, labels, checker=checker)))
    files = [*files, SHEET, RECORD]
    (part / RECORD).write_text(json.dumps({"files": files, **record}, indent=1, default=str) + "\n", encoding="utf-8")
    return files
