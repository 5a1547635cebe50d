"""Every benchmark runs and answers with a table and JSON. Its bounds are judged on a quiet machine, not here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SMALL = {
    "coverage.py": ["--samples", "600", "--draws", "20", "--steps", "3", "--metrics", "latent", "--reference", "4"],
    "full_size.py": ["--small", "--steps", "3", "--tries", "1", "--shape", "wan"],
    "pipelines.py": ["--minutes", "0.03", "--fresh", "4", "--bounds", "1.5", "--budget", "2", "--repeats", "1"],
    "cost_model.py": ["--models", "digits", "--batch", "2", "--repeats", "1", "--plans", "2"],
    "peers_acceleration.py": ["--batch", "2", "--steps", "6", "--repeats", "1", "--layers", "3", "--width", "16"],
    "precision_by_step.py": ["--width", "32", "--size", "8", "--batch", "2", "--steps", "2", "--repeats", "1"],
    "promise.py": ["--tunings", "1", "--budget", "2", "--fresh", "10"],
    "tuned.py": ["--bounds", "0.7", "--budget", "2", "--count", "2", "--repeats", "1", "--parts", "1"],
    "guided_solvers.py": ["--model", "digits", "--steps", "2", "--scales", "2", "--seeds", "1", "--reference", "4"],
    "imports.py": ["--repeats", "1"],
    "sampling.py": ["--batch", "2", "--steps", "2", "--repeats", "1"],
    "solver_overhead.py": ["--batch", "2", "--steps", "4", "--repeats", "1"],
    "seam.py": ["--batch", "2", "--steps", "2", "--repeats", "1"],
    "training.py": ["--batch", "4", "--steps", "1", "--repeats", "1"],
}


def test_every_benchmark_is_tried(root):
    assert {p.name for p in (root / "benchmarks").glob("*.py")} - {"interleaved.py"} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name, root, tmp_path):
    command = [sys.executable, root / "benchmarks" / name, *SMALL[name], "--json", tmp_path / "r.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said == json.loads((tmp_path / "r.json").read_text()) and said
    rows = [row for result in said for row in result["rows"].values()]
    if name == "coverage.py":  # which measures no seconds
        assert all(0 <= row["missed"] <= 1 and row["width"] > 0 for row in rows)
    else:
        assert all(row["median_ms"] > 0 and row["ratio"] > 0 for row in rows)


def test_the_ratio_is_taken_within_each_turn(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import interleaved

    drifting = {"a": [1.0, 2.0, 4.0, 8.0], "b": [1.1, 2.2, 4.4, 8.8]}  # a machine that slows down
    assert abs(interleaved.ratio(drifting, "b", "a") - 1.1) < 1e-9
    order = []
    interleaved.measure({n: (lambda n=n: order.append(n)) for n in "ab"}, repeats=2, warm=0)
    assert order == ["a", "b", "b", "a"]
