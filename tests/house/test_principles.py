"""The page on principles: its Python runs as it stands, and its pictures are small and made by one command."""

from __future__ import annotations

import importlib.util
import re

import pytest


def page(root) -> str:
    return (root / "docs" / "principles.md").read_text(encoding="utf-8")


def test_the_python_runs_block_after_block(root):
    blocks = re.findall(r"```python\n(.*?)```", page(root), re.S)
    assert len(blocks) >= 8 and all("assert" in b for b in blocks)
    scope: dict = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"principles.md, block {number}", "exec"), scope)


@pytest.fixture(scope="module")
def figures(root):
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("principles", root / "docs" / "figures" / "principles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_are_there_and_small(root, figures):
    named = re.findall(r"\]\(pictures/principles-(\w+)\.png\)", page(root))
    assert named and set(named) == set(figures.FIGURES)
    for name in named:
        assert (root / "docs" / "pictures" / f"principles-{name}.png").stat().st_size < 150_000, name


def test_the_command_makes_them(figures, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "HERE", tmp_path)
    figures.main(["levels", "kinds"])
    assert {p.name for p in tmp_path.iterdir()} == {"principles-levels.png", "principles-kinds.png"}
