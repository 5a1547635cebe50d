"""The benchmark of accelerations: FLOPs as done, as many for the others, a report, and refusals that are told."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ornstein import bench_acceleration as bench
from ornstein.cli import app
from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError

ONLY = ("stepreuse", "deepcache:interval=4", "firstblock:threshold=0")
DIGITS = "digits", "digits-unet"
SMALL = bench.Settings(steps=4, seeds=1, tries=1, only=ONLY, models=DIGITS)


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
    assert ("digits-unet", "deepcache:interval=3") in {f[:2] for f in found}
    assert not [f for f in found if f[0] == "digits" and f[1].startswith("deepcache")]
    skip, switch = (next(p for _, told, p in bench.contenders(steps=13) if told.startswith(n)) for n in ("skip", "switch"))
    assert len(skip.blocks) == len(switch.table) == 13 and {*switch.table} == {0, 1, 2}


def test_the_grounds():
    """What was learned on the digits is not tried elsewhere; emoji, which are slow, only where asked for."""
    found = bench.contenders(("ilf", "deepcache:interval=2"), 20, bench.GROUNDS)
    assert [f[:2] for f in found] == [("digits-unet", "deepcache:interval=2"), ("digits", "ilf, as shipped for digits"),
                                      ("exact", "ilf:interval=2"), ("emoji", "ilf:interval=2")]  # fmt: skip
    assert {m for m, *_ in bench.contenders()} == {*bench.GROUNDS} - {"emoji"}
    guided, network, shape, cond = bench._ready("emoji")
    assert guided.rule.scale == 3 and network is guided.denoiser.backbone and shape == (4, 32, 32)
    assert not torch.equal(*cond(2)["pooled"]) and torch.equal(cond(9)["pooled"][8], cond(1)["pooled"][0])
    assert bench._ready("digits")[3](11)["label"].tolist() == [*range(10), 0]
    with pytest.raises(OrnsteinError, match="Did you mean 'emoji'"):
        bench.Settings(models=("emojis",))


def test_the_truth_of_the_exact_network_is_not_its_own():
    """Solved in closed form; the network in many steps comes there, in few not, and so does what keeps answers."""
    few, many = (bench._draw("exact", None, n, 1, *bench.OTHERS["dpmpp2m"]) for n in (4, 60))
    truth, each = bench._exact("exact", 1), bench.GROUNDS["exact"].each
    assert bench._distances(many, truth, each)[0] < 0.01 < 0.03 < bench._distances(few, truth, each)[0]


def test_the_plain_cache_computes_as_many_as_it_says():
    whole = bench._full("digits", 6, 1)[1]
    for n in range(1, 7):
        part = bench.Reuse(bench.Fraction(6, n))
        x, count = bench._counted("digits", part, 6, 1)
        assert count == whole * n // 6
        if 6 % n == 0:  # an answer kept for a few steps of ddim is one long step
            assert torch.allclose(x, bench._draw("digits", None, n, 1), atol=1e-5)
    memory, seen = bench.Reuse(bench.Fraction(6, 4)).start(), []
    for k in range(6):
        bench.Reuse(bench.Fraction(6, 4)).around(None, None, {}, lambda streams, k=k: seen.append(k), memory)
    assert seen == [0, 1, 3, 4]  # what follows a computed one is kept
    four, fewer = (bench._other("digits", name, 4, 6, 1) for name in (bench.KEPT, "ddim"))
    assert four.steps == 4 and (0.0,) < four.full != fewer.full and bench._other("digits", bench.KEPT, 9, 6, 1).steps == 6


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
    assert not never.hasty and {*half.hasty} == {*half.others} == {*bench.OTHERS}
    assert half.hasty["ddim"].steps == math.ceil(4 * half.seconds - 0.01)


def test_attention_counts():
    """A fused kernel that is not counted would make attention free, and what saves it worthless."""
    (_, whole), x = bench._full("digits", 4, 1), torch.zeros(4, 1, 8, 8)
    net = bench._ready("digits")[1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, torch.ones(4), {"label": torch.zeros(4, dtype=torch.long)})
    assert whole > 4 * counter.get_total_flops()


def test_who_beats_it_is_told():
    other = {"ddim": bench.Other(5, (0.2,), (0.5,)), "dpmpp2m": bench.Other(5, (0.05,), (0.5,))}
    late = {"ddim": bench.Other(7, (0.01,), (0.3,)), "kept": bench.Other(7, (0.3,), (0.3,))}
    mine = bench.Line("digits", "a:b=1", 0.5, 0.7, (0.1,), (0.4,), other, late)
    assert mine.beaten("full") == ["dpmpp2m"] and mine.beaten() == []
    assert mine.beaten("full", "hasty") == ["ddim"] and mine.beaten("exact", "hasty") == ["ddim", "kept"]
    told = bench.verdict([mine], 20)
    assert told == ("Of as many FLOPs, 0 of 1 stay nearer to the full run than all else; 1 of 1 to the solved equation: a. "
                    "Of as many seconds, 0 of 1 stay nearer to the full run than all else; 0 of 1 to the solved equation.")
    idle = bench.Line("digits", "c", 0.99, 1.0, (0.0,), (0.0,), other)
    assert "Not counted, as they save less than half a step: c." in bench.verdict([mine, idle], 20)
    cells = bench.cells(mine, lambda v: f"<{v}>")[4:]
    assert cells == ["0.1", "0.2", "<0.05>", "<0.4>", "0.5", "0.5", "<0.01, ddim 7>", "<0.3, ddim 7>"]
    assert bench.cells(idle, str)[-2:] == ["", ""]


def test_the_report(small):
    found, out = small
    said, text = json.loads((out / "acceleration.json").read_text()), (out / "acceleration.md").read_text()
    assert said["settings"]["steps"] == 4 and {x["name"] for x in said["lines"]} == {x.name for x in found.lines}
    assert "## digits-unet" in text and "deepcache:interval=4" in text and "**" in text
    rows = [r for r in text.splitlines() if r.startswith("| ")]
    assert "The shipped U-Net. Seeds: 1, of 4 samples each; tries of the clock: 1. From the solved equation 100 steps" in text
    assert {*found.known} == {*DIGITS} and all(0 < far < 0.02 for far in found.known.values())
    assert len(rows) == 2 + 4 and {r.count("|") for r in rows} == {len(bench.COLUMNS) + 1}


def test_other_models_join_the_report(small, tmp_path):
    found, out = small
    (tmp_path / "acceleration.json").write_bytes((out / "acceleration.json").read_bytes())
    more = bench.accelerations(replace(SMALL, models=("exact", "digits-unet")), tmp_path)
    assert [x for x in more.lines if x.model == "digits"] == [x for x in found.lines if x.model == "digits"]
    assert {*more.known} == {x.model for x in more.lines} == {*DIGITS, "exact"} == {*more.settings.models} and len(more.lines) == 6
    text = (tmp_path / "acceleration.md").read_text()
    assert text.index("## digits\n") < text.index("## digits-unet\n") < text.index("## exact\n")
    other = bench.joined(bench.Bench(replace(SMALL, steps=5)), tmp_path / "acceleration.json")
    assert not other.lines  # measured otherwise


def test_what_refuses_is_left_out_with_its_reason():
    settings = bench.Settings(4, 1, 1, ("skip:blocks=((),(1,))",), models=("digits",))
    found = bench.accelerations(settings)
    assert not found.lines and "lists blocks for 2 steps" in found.left_out["skip:blocks=((),(1,)) on digits"]
    same = bench.Bench(settings, left_out={"a on exact": "no tokens", "b on digits": "too deep", "c on exact": "no tokens"})
    assert bench.markdown(same).endswith("- a on exact, c on exact: no tokens\n- b on digits: too deep\n")
    net = bench._ready("digits")[1]
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
    (["acceleration", "--model", "emjoi"], "Did you mean 'emoji'"),
    (["solvers", "--model", "exact"], "--model is for acceleration"),
    (["pictures"], "unknown model or benchmark"),
])  # fmt: skip
def test_mistakes_are_told_at_once(words, told, tmp_path):
    done = CliRunner().invoke(app, ["bench", *words, "--out", str(tmp_path)])
    assert isinstance(done.exception, OrnsteinError) and told in str(done.exception)
    assert not list(tmp_path.iterdir())
