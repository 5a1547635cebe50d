"""The command line run in this process, and a small model to run it with."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
import torch

from ornstein.model import create, save

DIGITS = [str(d) for d in range(10)]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def ornstein(monkeypatch, capsys, tmp_path):
    """ornstein('generate', '3', ...) -> Ran; the working folder is an empty one."""
    from ornstein.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ornstein", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = main() or 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


def _small_model(backbone: str = "dit", seed: int = 0):
    """An untrained class-conditional model of 8x8 pictures, the same for the same seed."""
    torch.manual_seed(seed)
    shape = {
        "dit": {"name": "dit", "channels": 1, "patch": 2, "width": 32, "depth": 3, "heads": 2, "classes": 10},
        "unet": {
            "name": "unet",
            "channels": 1,
            "width": 16,
            "multipliers": [1, 2],
            "attention_levels": [1],
            "classes": 10,
        },
    }[backbone]
    model = create({
        "backbone": shape, "process": {"name": "flow"}, "predicts": "velocity", "codec": {"name": "pixel"},
        "encoder": {"name": "classes", "classes": 10, "names": DIGITS}, "shape": [1, 8, 8],
        "defaults": {"solver": "ddim", "steps": 3, "guidance": []},
    }, "small")  # fmt: skip
    for p in model.backbone.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return model


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Model files by backbone: {'dit': path, 'unet': path}."""
    folder = tmp_path_factory.mktemp("models")
    return {b: save(folder / f"{b}.safetensors", _small_model(b)) for b in ("dit", "unet")}


@pytest.fixture(scope="session")
def small_model():
    """small_model('dit', seed=1) -> Model."""
    return _small_model
