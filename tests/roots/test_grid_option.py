"""--grid reaches the run, its record and its plan."""

import json

import pytest
from typer.testing import CliRunner

from ornstein import load
from ornstein.cli import app
from ornstein.core.errors import OrnsteinError


def test_the_grid_is_used_and_written_down(tmp_path):
    model = load("digits")
    plain, beta = (model.generate(["3"], steps=4, grid=g, seed=1) for g in ("karras", "beta"))
    assert (plain.x - beta.x).abs().max() > 1e-3 and beta.plan.grid == "beta" == beta.record.facts["grid"]
    out = tmp_path / "a"
    done = CliRunner().invoke(app, ["generate", "3", "--model", "digits", "--steps", "4", "--grid", "beta", "--seed", "1",
                                    "--out", str(out), "--save-plan", str(tmp_path / "plan.json")])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "plan.json").read_text())["grid"] == "beta"


def test_an_unknown_grid_is_refused_before_anything_loads():
    with pytest.raises(OrnsteinError, match="Did you mean 'beta'"):
        load("digits").generate(["3"], grid="bta")
