"""The benchmark of guidances: equal calls, a reader whom no guidance asks, a page that is renewed between its marks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ornstein import bench_guidance as bench
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.model import load

ONLY = ("no guidance", "cfg, in an interval", "apg")
SMALL = bench.Settings(("digits",), count=20, nfe=6, only=ONLY)


@pytest.fixture(scope="module")
def small():
    return bench.measure(SMALL)


def test_all_have_as_many_calls(small):
    steps = {x.name: (x.steps, x.nfe) for x in small.lines}
    assert steps["no guidance"] == (6, 6) and steps["apg"] == (3, 6) and len(steps) == 3
    assert steps["cfg, in an interval"][0] > 3 and steps["cfg, in an interval"][1] <= 6
    assert all(x.read[1] <= x.read[0] <= x.read[2] and x.seconds > 0 for x in small.lines)


def test_what_fits_is_found_from_the_calls_as_they_are():
    model = load("digits")
    assert bench.fitting(model, ("cfg:scale=2", "apg:scale=2"), 9, "3") == 2  # four calls a step
    assert bench.fitting(model, ("cfg:scale=2",), 7, "3") == 3 and bench.fitting(model, ("cached:scale=2",), 9, "3") > 4
    assert bench.fitting(model, ("cfg:scale=2",), 1, "3") == 1


def test_the_reader_reads_real_digits():
    data = catalog.build("data", "digits:split=all")
    assert 0.98 < bench.floor() < 1
    assert torch.equal(bench.read(data.images()[:50]), data.labels[:50])
    noisy = data.images()[:200] + 0.2 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (bench.read(noisy) == data.labels[:200]).double().mean() > 0.95


def line(name, read, frechet, half=0.01):
    def wide(v):
        return (v, v - half, v + half)

    return bench.Line("digits", name, (), 8, 16, 0.1, wide(read), wide(frechet))


def test_the_verdict_can_say_all_things():
    plain = [line("cfg", 0.9, 1.0), line("cfg, stronger", 0.95, 2.0)]
    assert "together: none; by intervals that do not touch: none" in bench.verdict([*plain, line("a", 0.9, 1.2)])
    assert "together: a; by intervals that do not touch: none" in bench.verdict([*plain, line("a", 0.95, 1.995)])
    assert "together: a; by intervals that do not touch: a" in bench.verdict([*plain, line("a", 0.95, 1.5)])
    assert "together: a; by intervals that do not touch: none" in bench.verdict([*plain, line("a", 0.955, 3.0)])  # no rival, barely
    assert bench.verdict(plain) == ""


def test_the_page_is_renewed_between_its_marks(small, tmp_path):
    page = tmp_path / "guidance.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    small.pictures = {"cfg": np.zeros((8, 32, 32, 4), np.uint8), "apg": np.full((8, 32, 32, 4), 255, np.uint8)}
    files = bench.write(small, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| cfg") == 1 and "`apg:scale=2`" in text and "minority: it asks" in text
    said = json.loads(files[0].read_text())
    assert said["settings"]["nfe"] == 6 and [x["name"] for x in said["lines"]] == [x.name for x in small.lines]
    assert Image.open(files[2]).size[1] == 32 + 2 * 68
    page.write_text("no marks")
    with pytest.raises(OrnsteinError, match="no place for the tables"):
        bench.write(small, tmp_path)


def test_the_shipped_figures_are_of_all_contenders(root):
    said = json.loads((root / "docs/benchmarks/guidance.json").read_text())
    assert {(x["model"], x["name"]) for x in said["lines"]} == {(m, c.name) for m, c in bench.contenders()}
    assert all(x["nfe"] <= said["settings"]["nfe"] for x in said["lines"]) and said["settings"]["count"] >= 100
    found = bench.Bench(bench.Settings(), [bench.Line(**x | {"guidance": tuple(x["guidance"])}) for x in said["lines"]])
    assert bench.tables(found).partition("Left out")[0] in (root / "docs/guidance.md").read_text()
    assert (root / "docs/pictures/guidance.png").stat().st_size < 400_000


def test_the_command(tmp_path, capsys):
    bench.main(["--model", "digits", "--count", "20", "--nfe", "4", "--only", "rescaled", "--out", str(tmp_path)])
    assert "rescaled" in capsys.readouterr().out and "| rescaled |" in (tmp_path / "guidance.md").read_text()


@pytest.mark.parametrize("settings, words", [
    (dict(count=5), "measure nothing"), (dict(models=("scenes",)), "digits or emoji"), (dict(only=("cfgg",)), "Did you mean 'cfg'"),
])  # fmt: skip
def test_mistakes_are_told(settings, words):
    with pytest.raises(OrnsteinError, match=words):
        bench.contenders(bench.Settings(**settings))
