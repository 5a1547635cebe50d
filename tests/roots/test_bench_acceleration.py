"""The benchmark of accelerations: FLOPs as done, as many for the others, a report, and refusals that are told."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ornstein import bench_acceleration as bench
from ornstein.cli import app
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

ONLY = ("stepreuse", "deepcache:interval=4", "firstblock:threshold=0")
SMALL = bench.Settings(steps=4, seeds=1, tries=1, only=ONLY)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bench")
    return bench.accelerations(SMALL, out), out


def line(found, model, name):
    return next(x for x in found.lines if x.model == model and x.name.startswith(name))


def test_every_acceleration_takes_part_where_it_fits():
    found = bench.contenders()
    assert {told.partition(":")[0].partition(",")[0] for _, told, _ in found} == {
        e.name for e in catalog.entries("acceleration")
    }
    assert ("unet", "deepcache:interval=3") in {f[:2] for f in found}
    assert not [f for f in found if f[0] == "dit" and f[1].startswith("deepcache")]
    skip = next(p for _, told, p in bench.contenders(steps=7) if told.startswith("skip"))
    assert len(skip.blocks) == 7


def test_flops_are_those_that_are_done_and_the_others_get_as_many(small):
    found = small[0]
    assert len(found.lines) == 4 and not found.left_out  # stepreuse fits both models
    never, half = line(found, "digits", "firstblock"), line(found, "digits", "stepreuse")
    assert never.flops == 1 and never.full == (0.0,) and never.others["ddim"].steps == 4
    assert 0.5 <= half.flops < 0.6 and half.others["ddim"].steps == 3  # 2 of 4 in full, and what is always computed
    assert line(found, "digits-unet", "deepcache").others["dpmpp2m"].steps < 4
    for other in (o for x in found.lines for o in x.others.values()):
        assert len(other.full) == len(other.exact) == 1 and min(other.full + other.exact) >= 0
    assert half.full[0] > 0 and all(x.seconds > 0 for x in found.lines)


def test_attention_counts():
    """A fused kernel that is not counted would make attention free, and what saves it worthless."""
    (_, whole), x = bench._full("dit", 4, 1), torch.zeros(4, 1, 8, 8)
    net = bench._denoiser("dit").backbone
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, torch.ones(4), {"label": torch.zeros(4, dtype=torch.long)})
    assert whole > 4 * counter.get_total_flops()


def test_who_beats_it_is_told():
    other = {"ddim": bench.Other(5, (0.2,), (0.5,)), "dpmpp2m": bench.Other(5, (0.05,), (0.5,))}
    mine = bench.Line("digits", "a:b=1", 0.5, 0.7, (0.1,), (0.4,), other)
    assert mine.beaten("full") == ["dpmpp2m"] and mine.beaten() == []
    told = bench.verdict([mine], 20)
    assert told == "0 of 1 stay nearer to the full run than all fewer steps; 1 of 1 to the solved equation: a."
    idle = bench.Line("digits", "c", 0.99, 1.0, (0.0,), (0.0,), other)
    assert "Not counted, as they save less than half a step: c." in bench.verdict([mine, idle], 20)
    assert bench.cells(mine, lambda v: f"<{v}>")[4:] == ["0.1", "0.2", "<0.05>", "<0.4>", "0.5", "0.5"]


def test_the_report(small):
    found, out = small
    said, text = json.loads((out / "acceleration.json").read_text()), (out / "acceleration.md").read_text()
    assert said["settings"]["steps"] == 4 and {x["name"] for x in said["lines"]} == {x.name for x in found.lines}
    assert "## digits-unet" in text and "deepcache:interval=4" in text and "**" in text
    rows = [r for r in text.splitlines() if r.startswith("| ")]
    assert len(rows) == 2 + 4 and {r.count("|") for r in rows} == {len(bench.COLUMNS) + 1}


def test_what_refuses_is_left_out_with_its_reason():
    settings = bench.Settings(4, 1, 1, ("skip:blocks=((),(1,))",))
    found = bench.accelerations(settings)
    assert not found.lines and "lists blocks for 2 steps" in found.left_out["skip:blocks=((),(1,)) on digits"]
    net = bench._denoiser("dit").backbone
    assert not any("forward" in m.__dict__ for m in net.modules())


def test_beside_the_caches_of_diffusers(monkeypatch):
    pytest.importorskip("diffusers")
    from ornstein.bridges.layers import caches as peers

    task = peers.task
    monkeypatch.setattr(peers, "task", lambda steps: task(layers=2, width=16, size=4, batch=1, steps=steps))
    found = bench.peer_lines(bench.Settings(4, 1, 1, ("taylorseer",)))
    assert {p.whose for p in found} == {"ornstein", "diffusers"} and {"TaylorSeer", "FirstBlockCache"} <= {p.name for p in found}
    assert [p.full for p in found] == sorted(p.full for p in found) and all(0 < p.flops <= 1.001 for p in found)
    known = {"A": peers.Peer("A", torch.zeros(1), 0.125, 0.5, 3.0, 4.0)}
    monkeypatch.setattr(peers, "peers", lambda *a, **k: known)
    assert bench.PeerLine("A", "diffusers", 0.5, 0.25, 0.125) in bench.peer_lines(bench.Settings(4, 1, 1, ("taylorseer",)))
    text = bench.markdown(bench.Bench(SMALL, peers=found))
    assert "| TaylorSeer | diffusers |" in text and "| taylorseer:interval=3,order=2 | ornstein |" in text


def test_the_command(tmp_path):
    done = CliRunner().invoke(app, ["bench", "acceleration", "--quick", "--seeds", "1", "--nfe", "4", "--only",
                                    "deepcache:interval=4", "--out", str(tmp_path)])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "deepcache:interval=4" in done.output and "digits-unet" in done.output
    assert {p.name for p in tmp_path.iterdir()} == {"acceleration.json", "acceleration.md"}


@pytest.mark.parametrize("words, told", [
    (["acceleration", "--only", "deepcach"], "Did you mean 'deepcache'"),
    (["acceleration", "--nfe", "5,10"], "one --nfe"), (["acceleration", "--process", "vp"], "no --process"),
    (["acceleration", "--nfe", "1"], "at least two steps"), (["solvers", "--peers"], "--peers is for acceleration"),
    (["pictures"], "unknown model or benchmark"),
])  # fmt: skip
def test_mistakes_are_told_at_once(words, told, tmp_path):
    done = CliRunner().invoke(app, ["bench", *words, "--out", str(tmp_path)])
    assert isinstance(done.exception, OrnsteinError) and told in str(done.exception)
    assert not list(tmp_path.iterdir())
