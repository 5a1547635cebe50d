"""The npm archive of the emoji: got with the ordinary client, checked, and read in memory without being unpacked."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from ornstein.core.errors import OrnsteinError

from . import emoji_art

__all__ = ["ARCHIVE_SHA256", "PACKAGE", "check", "download", "read"]

PACKAGE = "emoji-datasource-google@16.0.0"
ARCHIVE_SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
LIMIT = 8 << 20  # bytes of one archive member; the largest that is read is the index, 1.6 MB


def check(archive: Path) -> None:
    """Refuse what is missing or is not the archive that the recorded SHA-256 belongs to."""
    if not archive.is_file():
        raise OrnsteinError(f"no archive {archive}", f"`npm pack {PACKAGE}` writes it.")
    found = hashlib.sha256()
    with open(archive, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != ARCHIVE_SHA256:
        raise OrnsteinError(f"{archive} is not {PACKAGE}: its SHA-256 differs", f"`npm pack {PACKAGE}` again.")


def download(folder: str) -> Path:
    try:
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=900)
        return next(Path(folder).glob("*.tgz"))
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        remedy = "Install npm, or get the archive elsewhere and pass it: fetch(archive=PATH)."
        raise OrnsteinError("npm could not hand over the emoji", remedy) from error


def read(archive: Path) -> tuple[dict[str, list], np.ndarray]:
    """Table and exact pictures [N, 4, 64, 64]. Members are read in memory by name, nothing is extracted to the disk."""
    raw: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            wanted = member.name == "package/emoji.json" or member.name.startswith("package/img/google/64/")
            if wanted and member.isfile() and member.size <= LIMIT:
                raw[member.name] = tar.extractfile(member).read()
    table: dict[str, list] = {k: [] for k in ("code", "base", "tone", "name", "caption", "category")}
    pictures = []
    index = json.loads(_member(raw, "package/emoji.json"))
    for entry in sorted(filter(emoji_art.keep, index), key=lambda e: e["sort_order"]):
        forms = [("", entry)] + [(k.split("-")[0], v) for k, v in entry.get("skin_variations", {}).items()
                                 if len(set(k.split("-"))) == 1 and v["has_img_google"]]  # fmt: skip
        for tone, form in forms:
            words = f", {emoji_art.TONES[tone]} skin tone" if tone else ""
            code, texts = form["unified"], (emoji_art.name(entry) + words, emoji_art.caption(entry) + words)
            for key, value in zip(table, (code, emoji_art.base(code), tone, *texts, entry["category"])):
                table[key].append(value)
            pictures.append(emoji_art.decode(_member(raw, "package/img/google/64/" + form["image"])))
    return table, np.stack(pictures)


def _member(raw: dict[str, bytes], name: str) -> bytes:
    if name not in raw:
        raise OrnsteinError(f"the archive lacks {name}, or it is over {LIMIT} bytes", f"`npm pack {PACKAGE}` again.")
    return raw[name]
