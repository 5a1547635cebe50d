"""`ornstein check --all`: workers that break down, the order, the file of figures, and that cards and figures agree."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from ornstein import checks, evidence
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError


def _fake(path: str, quick: bool = True) -> checks.Outcome:
    row = {"name": "new", "kind": "method", "metric": "error (lower)", "values": [1.0, 3.0], "cost": "1 NFE"}
    base = {**row, "name": "old", "kind": "natural", "values": [4.0]}
    return checks.Outcome(path, "holds", "holds", f"{path} is better", "", [row, base], 2.0, 2.5)


def _imitate(pipe) -> None:
    """A worker that does as the name of its method says. It needs no torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            path, _ = pipe.recv()
        except EOFError:
            return
        if path.endswith("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if path.endswith("exits"):
            os._exit(7)
        if path.endswith("sleeps"):
            time.sleep(60)
        pipe.send(_fake(path))


@pytest.fixture(autouse=True)
def _workers_find_this_file(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root))


def _done(steps) -> dict[str, checks.Outcome]:
    return {o.path: o for o, _ in steps if o is not None}


def test_a_worker_that_dies_takes_nothing_with_it():
    paths = ["a/1", "a/dies", "a/2", "a/exits", "a/3"]
    found = _done(checks.run(paths, 2, work=_imitate))
    assert sorted(found) == sorted(paths)
    assert {p for p, o in found.items() if not o.good} == {"a/dies", "a/exits"}
    assert "SIGKILL" in found["a/dies"].said and "exit code 7" in found["a/exits"].said


def test_closing_ends_the_workers_and_ticks_come_while_they_work():
    steps = checks.run(["a/sleeps"], 1, work=_imitate)
    began = time.perf_counter()
    outcome, running = next(steps)
    assert outcome is None and list(running) == ["a/sleeps"]
    worker = _children()
    steps.close()
    assert worker and not set(worker) & set(_children()) and time.perf_counter() - began < 30


def _children() -> list[int]:
    import multiprocessing

    return [p.pid for p in multiprocessing.active_children()]


def test_an_exception_is_the_result_of_its_method_alone(monkeypatch):
    def check(path, quick):
        if path == "solvers/euler":
            raise ValueError("no such thing")
        rows = [evidence.Row("n", "method", "e", [1.0, math.inf]), evidence.Row("o", "natural", "e", [1 / 3])]
        return evidence.Evidence("c", rows, "holds"), "fails"

    monkeypatch.setattr(evidence, "check", check)
    found = _done(checks.run(["solvers/ddim", "solvers/euler"], 0))
    assert found["solvers/euler"].said == "solvers/euler: crashed: ValueError: no such thing"
    assert found["solvers/ddim"].said == "solvers/ddim: the card says 'fails', the evidence says 'holds'"
    assert found["solvers/ddim"].rows[1]["values"] == [0.333333]
    assert checks.numbers(found["solvers/ddim"].rows[0])[0] == math.inf


def test_the_longest_come_first_and_the_unknown_before_them():
    assert checks.longest_first(["a", "b", "c", "d"], {"a": 1.0, "b": 9.0, "d": 2.0}) == ["c", "b", "d", "a"]


def test_mean_and_spread_of_a_row():
    row = evidence.Row("n", "method", "e", [1.0, 2.0, 6.0])
    assert checks.numbers({"values": [1.0, 2.0, 6.0]}) == pytest.approx((row.mean, row.spread, 3))
    assert checks.numbers({"values": [2.5]}) == (2.5, 0.0, 1)


def test_the_file_is_renewed_in_part_and_never_half(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    checks.save(file, [_fake("solvers/ddim"), _fake("grids/beta")], True)
    first = json.loads(file.read_text())
    assert list(first["methods"]) == ["grids/beta", "solvers/ddim"] and first["seconds"] == 4.0
    assert {"torch", "numpy", "python"} <= set(first["versions"])
    assert first["methods"]["grids/beta"]["rows"][0]["values"] == [1.0, 3.0]
    crashed = checks.Outcome("solvers/ddim", error="Traceback\nValueError: x")
    checks.save(file, [crashed], False, checks.load(file))
    second = json.loads(file.read_text())
    assert second["methods"]["grids/beta"] == first["methods"]["grids/beta"]
    assert second["methods"]["solvers/ddim"] == {"quick": False, "verdict": "", "recorded": "", "rows": [], "seconds": 0.0,
                                                 "wall": 0.0, "error": "ValueError: x"}  # fmt: skip
    before = file.read_text()
    monkeypatch.setattr(checks, "_text", lambda whole: "\udc80")  # cannot be written
    with pytest.raises(UnicodeEncodeError):
        checks.save(file, [_fake("grids/beta")], True)
    assert file.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    for text in ("[1, 2]", "no json", '{"format": 99}'):
        file = tmp_path / "f.json"
        file.write_text(text)
        with pytest.raises(OrnsteinError):
            checks.load(file)
        assert file.read_text() == text
    assert checks.load(tmp_path / "none.json") == {}


@pytest.fixture
def imitated(monkeypatch):
    """checks.run with the workers of this file."""
    real = checks.run
    monkeypatch.setattr(checks, "run", lambda paths, jobs, quick: real(paths, jobs, quick, _imitate))


def test_the_command_sums_up_and_fails_where_one_crashed(imitated, tmp_path, capsys):
    file, out = tmp_path / "f.json", Console(width=200)
    assert checks.command(["a/1", "a/2"], 2, True, file, out, Console(stderr=True, width=200))
    said = capsys.readouterr()
    assert "2 methods: 2 holds, 0 partly, 0 fails" in said.out and "4 s of processor time" in said.out
    assert "2/2 a/" in said.err and list(checks.load(file)["methods"]) == ["a/1", "a/2"]
    assert not checks.command(["a/1", "a/dies"], 1, True, None, out, Console(stderr=True, width=200))
    assert "1 crashed" in capsys.readouterr().out


def test_on_a_terminal_it_shows_what_runs_and_what_differs(capsys):
    wrong = checks.Outcome("a/2", "fails", "holds", seconds=1.0)
    Console(width=100, force_terminal=False).print(checks._state([_fake("a/1"), wrong], {"a/3": 3.2}, 9))
    said = capsys.readouterr().out
    assert "2/9" in said and "1 holds, 0 partly, 1 fails" in said and "3 s" in said and "a/3" in said
    assert "the card says 'holds', the evidence says 'fails'" in said


@pytest.mark.parametrize("wrong", [["--jobs", "-1"], ["--json", "no/folder/f.json"]])
def test_wrong_options_are_refused_before_anything_runs(ornstein, wrong, monkeypatch):
    monkeypatch.setattr(checks, "run", None)
    assert ornstein("check", "--all", *wrong).code == 2


def test_two_real_methods_in_another_process_without_torch_in_this_one(tmp_path):
    code = ("import sys\nfrom pathlib import Path\nfrom rich.console import Console\nfrom ornstein import checks\n"
            "if __name__ == '__main__':\n"
            "    c = Console(width=200)\n"
            "    good = checks.command(['metrics/psnr', 'codecs/pixel'], 1, True, Path('f.json'), c, c)\n"
            "    print(good, 'torch' in sys.modules)\n")  # fmt: skip
    (tmp_path / "go.py").write_text(code)
    done = subprocess.run([sys.executable, "go.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("True False"), done.stdout + done.stderr
    found = checks.load(tmp_path / "f.json")["methods"]
    assert set(found) == {"metrics/psnr", "codecs/pixel"} and all(m["seconds"] > 0 for m in found.values())


def test_even_the_shortest_work_takes_time():
    """The ticks of the operating system are 10 ms: the seconds of a quick method must not be none."""
    before = checks._processor()
    sum(range(1000))
    assert checks._processor() > before


def test_ctrl_c_ends_the_workers(tmp_path):
    """As from a keyboard: the whole group hears it; nobody is left behind."""
    code = ("from rich.console import Console\nfrom ornstein import checks\n"
            "import sys, multiprocessing, time\n"
            "def work(pipe):\n    pipe.recv()\n    time.sleep(120)\n"
            "if __name__ == '__main__':\n"
            "    try:\n"
            "        for _, running in checks.run(['a/1', 'a/2'], 2, work=work):\n"
            "            print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
            "    except KeyboardInterrupt:\n"
            "        print('left', *[p.pid for p in multiprocessing.active_children()])\n")  # fmt: skip
    (tmp_path / "go.py").write_text(code)
    went = subprocess.Popen([sys.executable, "go.py"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    pids = went.stdout.readline().split()
    os.killpg(went.pid, signal.SIGINT)
    out, err = went.communicate(timeout=60)
    assert len(pids) == 2 and out.strip().splitlines()[-1] == "left", out + err
    assert "Traceback" not in err


# ---- the committed figures


def test_the_committed_figures_are_those_of_the_cards(root):
    """Renew them with `ornstein check NAME --json docs/evidence.json`."""
    file = root / "docs" / "evidence.json"
    if not file.is_file():
        pytest.skip("docs/evidence.json is not written yet: `ornstein check --all --json docs/evidence.json`")
    methods = checks.load(file)["methods"]
    known = {e.path for e in catalog.entries() if e.room != "recipes"}
    assert not set(methods) - known, "figures of methods that are gone"
    wrong = [p for p, m in methods.items() if m["verdict"] != evidence.card(p)["verdict"] or m.get("error")]
    assert not wrong, f"the figures of {wrong} are not those of their cards: renew them"
