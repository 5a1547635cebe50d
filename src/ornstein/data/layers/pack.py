"""A pack: one .npz of uint8 pictures with a JSON table, written atomically, refused where its content differs.

The digest is the SHA-256 of the raw pictures and the table; it does not depend on the compression of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ornstein.core.errors import OrnsteinError

__all__ = ["digest", "read", "write"]


def digest(pixels: np.ndarray, table: dict[str, Any]) -> str:
    """SHA-256 of shape, uint8 pixels and table, as 64 hexadecimal digits."""
    text = json.dumps([list(pixels.shape), table], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def write(path: Path, pixels: np.ndarray, table: dict[str, Any]) -> str:
    """Write pixels (uint8, [N, ...]) and table; a reader sees the old file or the new one. Returns the digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(table, sort_keys=True).encode(), np.uint8)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, pixels=pixels, table=text)
        os.chmod(temporary, 0o644)  # a temporary file is private; a pack is for everyone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return digest(pixels, table)


def read(path: Path, expected: str, remedy: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels and table of `path`. Missing, unreadable or other than `expected`: OrnsteinError with `remedy`."""
    if not path.is_file():
        raise OrnsteinError(f"{path.name} is not in {path.parent}", remedy)
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, table = file["pixels"], json.loads(file["table"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise OrnsteinError(f"{path} is corrupt and cannot be read ({error})", remedy) from error
    if pixels.dtype != np.uint8 or digest(pixels, table) != expected:
        raise OrnsteinError(f"{path} is corrupt: its checksum is not the recorded one", remedy)
    return pixels, table
