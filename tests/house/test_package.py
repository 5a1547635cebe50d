"""The built package carries what it needs, and says one version of itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest

import ornstein
from ornstein.core import catalog

PARTS = ("src", "docs", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "MANIFEST.in")
DATA = {".safetensors", ".npz", ".json", ".txt"}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """A wheel built from a copy, so that nothing old lies about in it."""
    folder = tmp_path_factory.mktemp("package")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PARTS:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, folder / name, **({"ignore": skip} if copy is shutil.copytree else {}))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        ".",
        "-w",
        "dist",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


def test_the_wheel_carries_everything(wheel, root):
    inside = set(wheel.namelist())
    package = root / "src" / "ornstein"
    wanted = {p.relative_to(package.parent).as_posix() for p in package.rglob("*")
              if p.suffix in DATA | {".py"} and "__pycache__" not in p.parts}  # fmt: skip
    wanted |= {"ornstein/py.typed"}
    assert not wanted - inside, sorted(wanted - inside)
    assert any(n.endswith("licenses/LICENSE") for n in inside) and any(n.endswith("licenses/NOTICE") for n in inside)
    assert not [n for n in inside if n.startswith(("tests", "benchmarks"))]


def test_the_wheel_carries_the_cards(wheel):
    inside = set(wheel.namelist())
    lost = [
        e.path for e in catalog.entries() if e.room != "recipes" and f"ornstein/docs/methods/{e.path}.md" not in inside
    ]
    assert not lost, lost


def test_the_wheel_answers_on_its_own(wheel, tmp_path):
    """Unpacked far from the checkout it finds its models and its cards."""
    wheel.extractall(tmp_path)
    code = ("import ornstein, ornstein.model as m, ornstein.evidence as e; from ornstein.core import catalog\n"
            f"assert ornstein.__file__.startswith({str(tmp_path)!r}), ornstein.__file__\n"
            "print(e.card('solvers/ddim')['title'], len(catalog.entries()), *m.known())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={"PYTHONPATH": str(tmp_path), "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "DDIM" in done.stdout and "digits" in done.stdout


def test_one_version(root, wheel):
    meta = next(n for n in wheel.namelist() if n.endswith("METADATA"))
    text = wheel.read(meta).decode()
    assert f"Version: {ornstein.__version__}\n" in text and "License-Expression: Apache-2.0" in text
    assert f"## {ornstein.__version__}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_the_plain_one(root):
    text = (root / "LICENSE").read_text(encoding="utf-8").strip()
    assert text.startswith("Apache License") and "END OF TERMS AND CONDITIONS" in text
