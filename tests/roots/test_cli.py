"""The command line does what its help says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ornstein.core import catalog


def test_generate_leaves_pictures_sheet_and_record(ornstein, weights, tmp_path):
    ran = ornstein("generate", "3", "7", "--model", weights["dit"], "--out", "new/pictures", "--seed", 5)
    assert ran.code == 0, ran.err
    place = tmp_path / "new" / "pictures"
    assert sorted(p.name for p in place.iterdir()) == ["00-3.png", "01-7.png", "contact-sheet.png", "record.json"]
    assert Image.open(place / "00-3.png").size == (8, 8)
    record = json.loads((place / "record.json").read_text())
    assert (
        record["prompts"] == ["3", "7"]
        and record["seed"] == 5
        and record["steps"] == 3
        and record["plan"]["solver"] == "ddim"
    )
    assert set(record["files"]) == {p.name for p in place.iterdir()}
    assert "contact-sheet.png" in ran.out and "record.json" in ran.out


def test_the_same_seed_draws_the_same_pictures_whatever_stands_beside(ornstein, weights, tmp_path):
    for out, prompts, seed in (("a", ["3", "7"], 1), ("b", ["3"], 1), ("c", ["3"], 2)):
        assert ornstein("generate", *prompts, "--model", weights["dit"], "--seed", seed, "--out", out).code == 0
    a, b, c = (np.asarray(Image.open(tmp_path / d / "00-3.png")).astype(int) for d in "abc")
    assert abs(a - b).max() <= 1 and abs(a - c).max() > 1


def test_a_saved_plan_draws_the_same_again_and_options_win_over_it(ornstein, weights, tmp_path):
    first = ("generate", "3", "--model", weights["dit"], "--steps", 5, "--solver", "ddim:eta=0.5", "--guidance", 2)
    assert ornstein(*first, "--out", "a", "--save-plan", "plan.json").code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["steps"] == 5 and plan["solver"] == "ddim:eta=0.5" and plan["guidance"] == ["cfg:scale=2.0"]
    assert ornstein("generate", "3", "--model", weights["dit"], "--plan", "plan.json", "--out", "b").code == 0
    assert (tmp_path / "a/00-3.png").read_bytes() == (tmp_path / "b/00-3.png").read_bytes()
    ran = ornstein(
        "generate",
        "3",
        "--model",
        weights["dit"],
        "--plan",
        "plan.json",
        "--steps",
        2,
        "--guidance",
        "none",
        "--out",
        "c",
    )
    assert ran.code == 0
    record = json.loads((tmp_path / "c/record.json").read_text())
    assert record["steps"] == 2 and record["plan"]["guidance"] == [] and record["plan"]["solver"] == "ddim:eta=0.5"


def test_accelerate_may_be_repeated_and_is_in_the_record(ornstein, weights, tmp_path):
    ran = ornstein(
        "generate",
        "3",
        "--model",
        weights["dit"],
        "--steps",
        6,
        "--accelerate",
        "firstblock:threshold=100",
        "--out",
        "a",
    )
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "a/record.json").read_text())
    assert (
        record["skipped"] > 0 and record["plan"]["accelerate"] == ["firstblock:threshold=100"] and "skipped" in ran.out
    )


def test_prompts_from_a_file(ornstein, weights, tmp_path):
    (tmp_path / "p.txt").write_text("3\n\n 7 \n")
    assert ornstein("generate", "1", "--prompts-file", "p.txt", "--model", weights["dit"], "--out", "a").code == 0
    assert json.loads((tmp_path / "a/record.json").read_text())["prompts"] == ["1", "3", "7"]


def test_without_out_each_run_gets_a_folder_of_its_own(ornstein, weights, tmp_path):
    for _ in range(2):
        assert ornstein("generate", "3", "--model", weights["dit"]).code == 0
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["dit-1", "dit-2"]


def test_overwrite_replaces_the_earlier_run_and_nothing_else(ornstein, weights, tmp_path):
    assert ornstein("generate", "3", "7", "--model", weights["dit"], "--out", "a").code == 0
    (tmp_path / "a/mine.txt").write_text("keep")
    assert ornstein("generate", "4", "--model", weights["dit"], "--out", "a", "--overwrite").code == 0
    names = ["00-4.png", "contact-sheet.png", "mine.txt", "record.json"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names


def test_methods_lists_the_house(ornstein):
    ran = ornstein("methods")
    assert ran.code == 0 and all(e.name in ran.out for e in catalog.entries())
    some = ornstein("methods", "solvers").out
    assert "ddim" in some and "firstblock" not in some
    assert "ddim" in ornstein("methods", "exponential", "integrator").out


def test_show_prints_the_card(ornstein):
    ran = ornstein("show", "ddim")
    assert ran.code == 0 and "Song" in ran.out and "verdict" in ran.out and "ornstein check" in ran.out


def test_check_ends_with_1_where_a_verdict_differs(ornstein, monkeypatch):
    from ornstein import evidence

    rows = [
        evidence.Row("new", "method", "error (lower)", [1.0, 2.0]),
        evidence.Row("old", "natural", "error (lower)", [3.0]),
    ]
    found = evidence.Evidence("new beats old", rows, "holds")
    monkeypatch.setattr(evidence, "check", lambda path, quick: (found, "holds"))
    ran = ornstein("check", "ddim")
    assert ran.code == 0 and "new beats old" in ran.out and "1.5" in ran.out
    monkeypatch.setattr(evidence, "check", lambda path, quick: (found, "fails"))
    ran = ornstein("check", "ddim")
    assert ran.code == 1 and "the card says 'fails', the evidence says 'holds'" in ran.out


def test_check_all_takes_every_method(ornstein, monkeypatch):
    from ornstein import evidence

    rows = [evidence.Row("new", "method", "error", [1.0]), evidence.Row("old", "natural", "error", [3.0])]
    asked = []
    monkeypatch.setattr(
        evidence, "check", lambda p, quick: (asked.append(p), (evidence.Evidence("c", rows, "holds"), "holds"))[1]
    )
    assert ornstein("check", "--all", "--full", "--jobs", 0).code == 0
    assert asked == [e.path for e in catalog.entries() if e.room != "recipes"]


def test_train_trains_and_goes_on_only_when_told(ornstein, tmp_path):
    short = ("train", "train_digits", "--set", "batch=8", "--set", "every=2", "--out", "r")
    ran = ornstein(*short, "--set", "steps=2")
    assert ran.code == 0, ran.err
    assert (tmp_path / "r/model.safetensors").is_file() and "model.safetensors" in ran.out
    again = ornstein(*short, "--set", "steps=3")
    assert again.code == 2 and "--resume" in again.err
    assert ornstein(*short, "--set", "steps=3", "--resume").code == 0
    assert ornstein("generate", "3", "--model", "r/model.safetensors", "--steps", 2, "--out", "p").code == 0


def test_an_interrupt_ends_with_130_and_leaves_nothing(weights, tmp_path):
    if os.name == "nt":
        pytest.skip("signals of this kind do not exist here")
    code = ("import ornstein.model as m, signal, time, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits none\n"
            "m.Model.generate = lambda *a, **k: (print('drawing', flush=True), time.sleep(60))\n"
            f"sys.argv = ['ornstein', 'generate', '3', '--model', {str(weights['dit'])!r}, '--out', 'a']\n"
            "from ornstein.__main__ import main; main()")  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline().strip() == "drawing"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130 and "Traceback" not in err, err
    assert not list(tmp_path.iterdir())
