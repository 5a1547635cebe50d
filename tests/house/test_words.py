"""What ships speaks of the project alone: no machine's paths, no hosts of registries, no keys, no notes to self."""

from __future__ import annotations

import re
import subprocess

import pytest

TEXT = {".py", ".md", ".toml", ".txt", ".cfg", ".json", ".yml", ".yaml", ".in", ".html", ".css", ".js", ""}
FORBIDDEN = {
    "a machine's path": r"(?<![\w.<>])/(?:work|root|home/\w+|opt/(?:wheels|pypi))/",
    "a scratch folder": r"""["'`]/tmp/|\s/tmp/""",
    "a registry's host": r"(?i)\b(?:pypi\.org|pythonhosted|npmjs|registry\.\w+\.\w+|deb\.debian|download\.pytorch)\b",
    "a private address": r"\b(?:10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+)\b",
    "a key": r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b",
    "a placeholder": r"\b(?:TODO|FIXME|XXX|lorem ipsum)\b",
}
HERE = "tests/house/test_words.py"  # the one file that has to say them


def tracked(root) -> list[str]:
    """The files of the repository, or of the folder where it is no checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return [f for f in done.stdout.splitlines() if (root / f).is_file()]
    skip = {".git", ".venv", "build", "dist", "__pycache__"}
    files = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    return [f.as_posix() for f in files if not skip & set(f.parts)]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_says(what, root):
    found = []
    for name in tracked(root):
        file = root / name
        if name == HERE or file.suffix not in TEXT or file.stat().st_size > 1_000_000:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_the_patterns_find_what_they_are_for():
    lines = {
        "a machine's path": "see /" + "work/main/x",
        "a scratch folder": "write to '/tmp/x'",
        "a placeholder": "# TODO later",
        "a private address": "at 192.168.1.1",
        "a key": "hf_" + "a" * 34,
    }
    assert all(re.search(FORBIDDEN[what], line) for what, line in lines.items())
    assert not re.search(FORBIDDEN["a machine's path"], "editing/framework/rooms and a/" + "work/b")


def test_no_large_file_has_crept_in(root):
    """Weights and packed pictures have their places; together they stay small enough to clone."""
    sizes = {f: (root / f).stat().st_size for f in tracked(root)}
    large = {f: s for f, s in sizes.items() if s > 1_500_000}
    places = ("src/ornstein/models/", "docs/")
    assert all(f.startswith(places) for f in large), large
    assert sum(s for f, s in sizes.items() if f.startswith("src/ornstein/models/")) <= 48 * 2**20
    assert sum(sizes.values()) < 80 * 2**20
