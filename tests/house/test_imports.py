"""Imports run one way, stay cheap, and reach for foreign libraries only where these are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ornstein.core import catalog

PACKAGE = catalog.ROOT
CORE_LIBRARIES = {"torch", "numpy", "safetensors", "PIL", "typer", "rich"}  # what the package itself depends on
INSIDE = sorted(p for p in PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(file: Path, module_level: bool = False) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of everything a file imports; relative names are made absolute."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ["ornstein", *file.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def allowed(file: Path, name: str) -> bool:
    """core imports core; a room imports core and itself only by way of its layers; the rest is free."""
    parts, room = name.split("."), room_of(file)
    if parts[0] != "ornstein" or len(parts) == 1:
        return True
    target = parts[1]
    if room == "core":
        return target == "core"
    if room not in catalog.ROOMS or room == "recipes":
        return True
    if target == "core":
        return True
    inner = file.relative_to(PACKAGE).parts[1:-1]
    return target == room and ("layers" in parts or "layers" in inner)


@pytest.mark.parametrize("file", INSIDE, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_one_way(file):
    wrong = [f"line {line}: {name}" for line, name in imported(file) if not allowed(file, name)]
    assert not wrong, f"{file.relative_to(PACKAGE)} imports across the house: {wrong}"


def test_the_rule_sees_a_wrong_import():
    here = PACKAGE / "solvers" / "ddim.py"
    assert not allowed(here, "ornstein.processes.vp") and not allowed(here, "ornstein.model")
    assert not allowed(here, "ornstein.solvers.euler") and allowed(here, "ornstein.solvers.layers.steps")
    assert not allowed(PACKAGE / "core" / "loop.py", "ornstein.solvers.ddim")


@pytest.mark.parametrize("file", INSIDE, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_foreign_libraries_are_imported_where_they_are_used(file):
    free = CORE_LIBRARIES | {"ornstein"} | set(sys.stdlib_module_names)
    wrong = [name for _, name in imported(file, module_level=True) if name.split(".")[0] not in free]
    assert not wrong, f"{file.relative_to(PACKAGE)}: import {wrong} inside the function that uses it"


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_costs_less_than_a_second_beyond_torch():
    code = (
        "import torch, numpy, time; a = time.perf_counter(); import ornstein; "
        "ornstein.load, ornstein.sample, ornstein.attach, ornstein.Plan; print(time.perf_counter() - a)"
    )
    assert min(float(_python(code)) for _ in range(2)) < 1.0


def test_import_alone_loads_nothing_heavy():
    assert _python("import ornstein, sys; print('torch' in sys.modules, 'numpy' in sys.modules)") == "False False"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["--version"], ["methods"], ["show", "ddim"]], ids=" ".join
)
def test_the_command_line_does_not_import_torch(arguments):
    code = (f"import sys, io, contextlib; sys.argv = ['ornstein', *{arguments!r}]\n"
            "from ornstein.__main__ import main\n"
            "with contextlib.redirect_stdout(io.StringIO()):\n"
            "    try: main()\n"
            "    except SystemExit as e: assert not e.code, e.code\n"
            "print('torch' in sys.modules)")  # fmt: skip
    assert _python(code) == "False"


def test_help_answers_within_a_second_and_a_half():
    import time

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ornstein", "--help"], check=True, capture_output=True, timeout=60)
        return time.perf_counter() - began

    assert min(once() for _ in range(3)) < 1.5
