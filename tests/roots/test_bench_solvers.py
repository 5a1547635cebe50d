"""The benchmark of solvers: equal calls, exact ends, a table that can be gone on with and asked."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from ornstein import bench_solvers as bench
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

SMALL = bench.Settings(nfe=(5, 9), processes=("flow",), seeds=2, quick=True, only=("ddim", "dpmpp2m", "heun", "ddpm"))


def test_every_solver_with_an_order_takes_part():
    found, left_out = bench.contenders()
    names = {e.name for e in catalog.entries("solvers")}
    assert {catalog.parse(s)[0] for s in found} | set(left_out) == names and "ddpm" in left_out
    assert len(found) == len(set(found)) and {"ddim", "heun", "dpmpp2m"} <= set(found)


def test_nobody_asks_more_often_than_allowed_and_the_second_order_wins():
    found = bench.solvers(SMALL)
    cells = {(c.solver, c.nfe): c for c in found.cells}
    assert {c.calls for c in found.cells if c.solver == "ddim"} == {5, 9}
    assert cells["heun", 9].calls == 9 and all(0 < c.calls <= c.nfe for c in found.cells)
    assert cells["dpmpp2m", 9].error < cells["ddim", 9].error / 2
    assert found.winners("mixture", "flow")[9].solver == "dpmpp2m" == found.rows("mixture", "flow")[0][0].solver
    assert "random walk" in found.left_out["ddpm"]


@pytest.mark.parametrize("process", bench.GRIDS)
def test_no_solver_of_the_house_asks_too_often(process):
    """A first step that is short of a call on the flow is not on the others."""
    for solver in bench.contenders()[0]:
        for nfe in (4, 10):
            cell = bench.measure("mixture", process, solver, bench.GRIDS[process][0], nfe, 1)
            assert cell.calls <= nfe and (cell.calls > nfe - 4 or cell.calls == 0), (solver, nfe, cell.calls)


def test_a_wrong_count_is_seen(monkeypatch):
    """Where a solver asks more often than was counted elsewhere, it gets fewer steps."""
    monkeypatch.setattr(bench, "_calls", lambda solver, process, steps: 1)
    assert bench.measure("mixture", "vp", "heun", "uniform", 9, 1).calls == 9


def test_best_of_a_written_table(tmp_path):
    table = tmp_path / "t.csv"
    rows = ["mixture,flow,5,a,uniform,5,1.0,0", "mixture,flow,5,b,beta,5,2.0,0", "mixture,flow,20,a,beta,20,0.4,0",
            "mixture,flow,20,b,uniform,20,0.1,0", "digits,flow,20,a,uniform,20,0.1,0", "digits,flow,20,b,uniform,20,0.8,0",
            "mixture,flow,5,diffusers DDIM,its own,5,0.1,0", "digits,flow,20,c,uniform,20,0.01,0"]  # fmt: skip
    table.write_text("\n".join([",".join(bench.COLUMNS), *rows]))
    for nfe, winner in ((2, ("a", "uniform")), (5, ("a", "uniform")), (19, ("a", "uniform")), (20, ("b", "uniform")),
                        (99, ("b", "uniform"))):  # fmt: skip
        assert bench.best(nfe, table=table) == winner
    assert bench.best(20, kind="digits", table=table) == ("c", "uniform")
    assert bench.best(20, kind="any", table=table)[0] == "a"  # 4 x 10 for a, 1 x 80 for b; c is not in both


def test_more_calls_come_nearer_on_the_digits_too():
    near, far = (bench.measure("digits", "edm", "dpmpp2m", "sway:s=0", n, 1).error for n in (40, 8))
    assert near < far / 5


def test_the_exact_end_of_the_digits_does_not_depend_on_its_steps():
    denoiser, start, end = bench.ground("digits", "edm", 1)
    other = bench.exact(denoiser, start[:3], steps=60)
    assert (other - end[:3]).abs().max() < 1e-4


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(done, total, words):
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        bench.solvers(SMALL, tmp_path, stop)
    kept = json.loads((tmp_path / "solvers.json").read_text())["cells"]
    assert {c["solver"] for c in kept} == {"ddim", "dpmpp2m"}
    measured = []
    real = bench.measure
    monkeypatch.setattr(bench, "measure", lambda *a: (measured.append(a[2]), real(*a))[1])
    assert len(bench.solvers(SMALL, tmp_path).cells) == 6 and measured == ["heun", "heun"]
    monkeypatch.setattr(bench, "_mark", lambda solver: "new" if solver == "ddim" else real_mark[solver])
    real_mark = {c.solver: c.mark for c in bench._load(tmp_path / "solvers.json").values()}
    measured.clear()
    bench.solvers(SMALL, tmp_path)
    assert measured == ["ddim", "ddim"]  # its code has changed


def test_the_report_and_what_best_makes_of_it(tmp_path):
    bench.solvers(SMALL, tmp_path)
    rows = list(csv.DictReader((tmp_path / "solvers.csv").open()))
    assert tuple(rows[0]) == bench.COLUMNS and len(rows) == 6
    text = (tmp_path / "solvers.md").read_text()
    assert "| dpmpp2m | uniform |" in text and "**" in text and "ddpm: a random walk" in text
    table = tmp_path / "solvers.csv"
    for nfe in (9, 30):
        assert bench.best(nfe, "flow", "mixture", table) == bench.best(nfe, "flow", "any", table) == ("dpmpp2m", "uniform")
    five = min((r for r in rows if r["nfe"] == "5"), key=lambda r: float(r["error"]))
    assert bench.best(8, "flow", table=table)[0] == bench.best(2, "flow", table=table)[0] == five["solver"]
    for wrong in (("vp", "mixture"), ("flow", "faces")):
        with pytest.raises(OrnsteinError):
            bench.best(9, *wrong, table)
    with pytest.raises(OrnsteinError, match="Make it"):
        bench.best(9, table=tmp_path / "none.csv")


def test_a_picture_where_there_is_matplotlib(tmp_path):
    pytest.importorskip("matplotlib")
    bench.solvers(SMALL, tmp_path)
    assert (tmp_path / "solvers.png").read_bytes()[:4] == b"\x89PNG"


def test_what_diverges_is_kept_as_such(tmp_path):
    cell = bench.Cell("mixture", "flow", "ddim", "uniform", 5, 2, 5, (math.inf, 1.0), "m")
    bench._save(tmp_path / "s.json", {cell.key: cell})
    assert bench._load(tmp_path / "s.json") == {cell.key: cell} and bench.figure(cell) == "diverges"


@pytest.mark.parametrize("process, name, ours, rule", [
    ("vp", "DDIM", "ddim", "uniform"), ("edm", "DPMSolverMultistep 2", "dpmpp2m", "karras"), ("vp", "Euler", "ddim", "beta"),
    ("flow", "FlowMatchEuler", "euler", "uniform"), ("edm", "Heun", "heun", "sway:s=0"),
])  # fmt: skip
def test_peers_stand_where_we_do(process, name, ours, rule):
    """Step for step the same algorithm on the same levels: the same ends."""
    pytest.importorskip("diffusers")
    from ornstein.bridges import peers

    denoiser, start, _ = bench.ground("mixture", process, 1)
    calls, mine = bench._ours("mixture", process, ours, rule, 11, 1)
    theirs = peers.run(process, name, denoiser, start, rule, 6 if name == "Heun" else 11)
    assert (theirs - mine).abs().max() < 1e-4 * max(1.0, mine.abs().max().item()), (theirs - mine).abs().max()
    assert peers.calls(process, name, denoiser.process, rule, 6 if name == "Heun" else 11) == calls == 11


@pytest.mark.parametrize("process", ["flow", "vp", "edm"])
def test_every_peer_comes_near(process):
    pytest.importorskip("diffusers")
    from ornstein.bridges import peers

    for name in peers.PEERS[process]:
        calls, ends = bench._theirs("mixture", process, bench.PEER + name, "uniform" if process == "flow" else "beta", 40, 1)
        gap = (ends - bench.ground("mixture", process, 1)[2]).square().mean(1).sqrt().median()
        assert calls in (39, 40) and gap < 0.05 and torch.isfinite(ends).all(), (name, gap)


def test_the_command(ornstein, tmp_path):
    ran = ornstein("bench", "solvers", "--quick", "--only", "ddim", "--only", "dpmpp2m", "--process", "flow", "--nfe", "6,4",
                   "--out", "tables")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "dpmpp2m" in ran.out and "*" in ran.out and "solvers.csv" in ran.out
    assert {"solvers.csv", "solvers.json", "solvers.md"} <= {p.name for p in (tmp_path / "tables").iterdir()}


@pytest.mark.parametrize("wrong", [
    ["models"], ["solvers", "--nfe", "5,x"], ["solvers", "--nfe", "0"], ["solvers", "--process", "ve"],
    ["solvers", "--only", "dmi"], ["solvers", "--only", "ddpm"], ["solvers", "--seeds", "0"],
])  # fmt: skip
def test_mistakes_end_with_2(ornstein, wrong):
    ran = ornstein("bench", *wrong)
    assert ran.code == 2 and ran.err.startswith("error: ")


def test_a_foreign_file_is_not_overwritten(ornstein, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "solvers.json").write_text("{}")
    ran = ornstein("bench", "solvers", "--only", "ddim", "--quick", "--out", "t")
    assert ran.code == 2 and (tmp_path / "t" / "solvers.json").read_text() == "{}"
