"""Plans side by side: the trivial ones always in, in turn, kept, gone on with, and held against an earlier benchmark."""

import json

import pytest
import torch

import ornstein as package
from ornstein import OrnsteinError, bench
from ornstein.bench import Bench, Line, Settings, against, label, read_plan
from ornstein.core.record import Record

SMALL = Settings(("latent", "rms"), count=4, rounds=2, batch=4)


@pytest.fixture
def model(small_model):
    return small_model()


def run(model, tmp_path, plans=None, settings=SMALL, **more):
    subjects = {
        t: read_plan(model, t) for t in plans or ["steps=2 solver=heun", "steps=4 accelerate=taylorseer:interval=2"]
    }
    return bench.bench(
        model, subjects, settings, prompts=["1", "2"], reference=model.plan(steps=6), out=tmp_path / "out", **more
    )


def test_baselines_stand_beside_and_the_reference_first(model, tmp_path):
    told = []
    made = run(model, tmp_path, progress=lambda done, total, what: told.append((done, total)))
    names = [x.name for x in made.lines]
    assert names[:2] == ["reference", "as shipped"] and any(n.startswith("ddim") for n in names) and len(names) == 7
    assert made.lines[0].losses["latent"][0] == 0 and all(x.losses["latent"][0] > 0 for x in made.lines[2:])
    assert all(len(x.seconds) == 2 and x.second > 0 for x in made.lines) and told[0] == (0, 14) and told[-1] == (13, 14)
    assert {x.name: x.calls for x in made.lines}["steps=2 solver=heun"] == 3
    skipping = made.lines[-1]
    assert skipping.skipped > 0 and skipping.parts["TaylorSeer"]["left"] > 0 and made.floor["latent"][0] > 0.3


def test_it_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    first = run(model, tmp_path, settings=Settings(SMALL.metrics, 4, 1, 4))
    again = run(model, tmp_path)
    assert [x.seconds[0] for x in again.lines] == [x.seconds[0] for x in first.lines] and again.done == 2
    assert [x.losses for x in again.lines] == [{k: list(v) for k, v in x.losses.items()} for x in first.lines]
    monkeypatch.setattr(bench, "_once", lambda *a: pytest.fail("measured again"))
    assert run(model, tmp_path).done == 2


def test_another_question_is_asked_anew(model, tmp_path):
    run(model, tmp_path, settings=Settings(("latent",), 4, 1, 4))
    other = run(model, tmp_path, settings=Settings(("latent",), 5, 1, 4))
    assert other.lines[0].losses["latent"][3] == 5


def test_a_page_with_everything_in_it(model, tmp_path):
    made = run(model, tmp_path, settings=Settings(("latent",), 4, 1, 4))
    page = (tmp_path / "out" / "bench.html").read_text()
    assert (
        page.count("data:image/png;base64,") == len(made.lines)
        and "<svg" in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert all(line.name in page for line in made.lines)


def test_a_plan_that_cannot_run_says_so_and_the_others_go_on(model, tmp_path):
    made = run(model, tmp_path, ["steps=4 accelerate=deepcache:interval=2", "steps=3"], Settings(("latent",), 4, 1, 4))
    refused = next(x for x in made.lines if "deepcache" in x.name)
    assert (
        "needs a U-Net" in refused.refused
        and not refused.losses
        and "needs a U-Net" in (tmp_path / "out/bench.html").read_text()
    )
    assert refused not in made.front("latent") and next(x for x in made.lines if x.name == "steps=3").losses


def test_plans_in_words(model):
    plan = read_plan(model, "steps=7 solver=heun grid=karras:rho=5 accelerate=tome:ratio=0.5 compress=int8")
    assert (plan.steps, plan.solver, plan.accelerate, plan.compress) == (7, "heun", ("tome:ratio=0.5",), ("int8",))
    assert read_plan(model, label(plan)) == plan and read_plan(model, "guidance=none").guidance == ()
    for text, words in {"steps=x": "steps=x", "stebs=3": "cannot read 'stebs=3'", "solver=hoin": "Did you mean",
                        "gone.json": "there is no plan"}.items():  # fmt: skip
        with pytest.raises(OrnsteinError, match=words):
            read_plan(model, text)


def test_a_benchmark_that_goes_on_warms_up_again(model, tmp_path, monkeypatch):
    """In another process everything is cold; and a compressed copy of the network is made before the clock runs."""
    plans = ["steps=7", "steps=7 compress=int8", "steps=7 compile"]
    drawn, record = [], Record()
    record.calls.update({"evaluations": 4, "cond": 4, "uncond": 2})

    def draw(self, plan, seed, count):
        drawn.append((label(plan), count))
        return torch.zeros(count, 1, 8, 8), record

    monkeypatch.setattr(bench.Trial, "draw", draw)
    monkeypatch.setattr("ornstein.report.pictures", lambda *a: {})
    clock = iter(range(0, 9999, 10))
    monkeypatch.setattr(bench, "now", lambda device: next(clock))
    for rounds in (2, 3):
        drawn.clear()
        made = run(model, tmp_path, plans, Settings(("latent",), 5, rounds, 4))
        assert made.done == made.settings["rounds"] == rounds
        ends = ("uniform", "int8", "compile")
        counts = {end: [n for name, n in drawn if name.endswith(end) and "steps=7" in name] for end in ends}
        once = rounds == 3
        assert counts["uniform"] == ([2, 5] if once else [2, 5, 5])
        assert counts["int8"] == [2, 5] * (1 if once else 2) and counts["compile"] == [5, 5] * (1 if once else 2)
    assert made.lines[-1].seconds == [2.0] * 3  # ten seconds for five pictures
    assert made.lines[-1].calls == 3  # six network calls in two batches


def test_a_plan_may_be_called_reference(model, tmp_path):
    plans = {"reference": model.plan(steps=2)}
    made = bench.bench(model, plans, Settings(("latent",), 2, 1, 4), prompts=["1"], reference=model.plan(steps=4))
    assert made.lines[0].baseline and made.lines[0].plan["steps"] == 4
    assert made.lines[-1].name == "reference (2)" and not made.lines[-1].baseline and made.lines[-1].plan["steps"] == 2


def test_what_cannot_be_measured_is_said_before_anything_is_drawn(model, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.Trial, "draw", lambda *a: pytest.fail("drawn"))
    with pytest.raises(OrnsteinError, match="too few for kid"):
        run(model, tmp_path, settings=Settings(("kid",), 8, 1, 4))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError):
        run(model, tmp_path)


def test_samples_that_are_not_finite_are_refused(model, tmp_path, monkeypatch):
    real = bench.Trial.draw

    def draw(self, plan, seed, count):
        x, record = real(self, plan, seed, count)
        return (x * float("nan") if plan.steps == 4 else x), record

    monkeypatch.setattr(bench.Trial, "draw", draw)
    made = run(model, tmp_path, ["steps=4", "steps=5"], Settings(("latent",), 2, 1, 4))
    assert made.lines[-2].refused == "the samples are not finite" and made.lines[-1].losses


def test_tokens_have_no_ddim_beside_them():
    model = package.load("digits-tokens")
    assert list(bench.baselines(model, model.plan())) == ["reference", "as shipped", "32 steps", "16 steps"]


def made_of(**lines):
    told = [Line(n, {}, False, seconds=s, losses={"latent": v}) for n, (s, v) in lines.items()]
    return Bench("m", "f", {"metrics": ["latent"]}, told)


def test_the_front():
    a, b, c = ([1.0], (0.5, 0.4, 0.6, 9)), ([2.0], (0.1, 0.0, 0.2, 9)), ([3.0], (0.3, 0.2, 0.4, 9))
    assert [x.name for x in made_of(slow=c, fast=a, good=b).front("latent")] == ["fast", "good"]


def test_against_an_earlier_one():
    whole = ([1.0, 1.0], (0.0, 0.0, 0.0, 9))
    before = made_of(reference=whole, a=([0.5, 0.52], (0.1, 0.08, 0.12, 9)))
    assert against(made_of(reference=whole, a=([0.5, 0.55], (0.11, 0.09, 0.13, 9))), before) == []
    assert "latent 0.2" in against(made_of(reference=whole, a=([0.5, 0.5], (0.2, 0.18, 0.22, 9))), before)[0]
    assert (
        "of the reference's seconds"
        in against(made_of(reference=whole, a=([0.7, 0.7], (0.1, 0.08, 0.12, 9))), before)[0]
    )
    assert (
        against(made_of(reference=([1.5, 1.5], (0, 0, 0, 9)), a=([0.75, 0.75], (0.1, 0.08, 0.12, 9))), before) == []
    )  # busy for all
    assert "is gone" in against(made_of(reference=whole), before)[0]
    nan = (float("nan"),) * 3
    assert "latent nan" in against(made_of(reference=whole, a=([0.5, 0.5], (*nan, 9))), before)[0]
    assert [x.name for x in made_of(a=([1.0], (*nan, 9)), b=([2.0], (0.1, 0.0, 0.2, 9))).front("latent")] == ["b"]
    better = made_of(reference=whole, a=([0.3, 0.3], (0.01, 0.0, 0.02, 9)))
    assert against(better, before) == [] and len(against(before, better)) == 2
    edge = made_of(reference=whole, a=([0.57, 0.7], (0.14, 0.12, 0.16, 9)))
    assert against(edge, before) == []  # its interval touches the other's; one round was no slower
    with pytest.raises(OrnsteinError, match="'other' is not one of 'm'"):
        against(before, Bench("other", "", {}, []))
    with pytest.raises(OrnsteinError, match="measured rms too"):
        against(before, Bench("m", "", {"metrics": ["latent", "rms"]}, []))
    with pytest.raises(OrnsteinError, match="other prompts"):
        against(before, Bench("m", "", {"metrics": ["latent"], "prompts": ["a"]}, []))


def test_a_torn_file_is_refused(tmp_path):
    for text in ("{", "[]", json.dumps({"format": 99}), json.dumps({"format": 1, "odd": 1, "lines": []})):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(OrnsteinError, match="is not a benchmark of plans"):
            Bench.load(tmp_path / "b.json")


def test_on_the_command_line(ornstein, small_model, tmp_path):
    from ornstein.model import save

    save(tmp_path / "m.safetensors", small_model())
    (tmp_path / "p.txt").write_text("1\n2\n")
    words = ("bench", "m.safetensors", "steps=2", "--count", 8, "--rounds", 1, "--prompts-file", "p.txt", "--out", "o")
    ran = ornstein(*words)
    assert ran.code == 0 and "steps=2" in ran.out and (tmp_path / "o" / "bench.html").is_file()
    made = json.loads((tmp_path / "o" / "bench.json").read_text())
    made["lines"][-1]["losses"]["latent"] = [1e-9, 0.0, 1e-9, 8]
    (tmp_path / "old.json").write_text(json.dumps(made))
    worse = ornstein(*words, "--against", "old.json")
    assert worse.code == 1 and "steps=2: latent" in worse.out
    itself = ornstein(*words, "--against", "o/bench.json")
    assert itself.code == 2 and "held against itself" in itself.err
    assert "only for solvers and acceleration" in ornstein("bench", "digits", "--nfe", "5").err
    assert "Did you mean 'digits'" in ornstein("bench", "digit").err
    assert "Did you mean" in ornstein("bench", "digits", "--metric", "latnt").err


def test_bad_settings():
    with pytest.raises(OrnsteinError, match="measure nothing"):
        Settings(count=1)
    assert torch.get_num_threads() == 1
