"""Runs and plans in words."""

import json

import pytest

from ornstein import OrnsteinError, Plan
from ornstein.explain import differences, explain_plan, explain_run, read


def draw(ornstein, tmp_path, *more, out="a"):
    ran = ornstein("generate", "1", "2", "--model", "digits", "--steps", 8, "--out", out, *more)
    assert ran.code == 0, ran.err
    return json.loads((tmp_path / out / "record.json").read_text())


def test_a_run(ornstein, tmp_path):
    told = draw(
        ornstein, tmp_path, "--accelerate", "taylorseer:interval=2", "--guidance", "cfg:scale=2,interval=(0,0.5)"
    )
    said = ornstein("explain", "a").out
    assert "8 evaluations" in said and "taylorseer:interval=2: left out" in said and "saved: " in said
    uncond = told["calls"]["uncond"]
    assert 0 < uncond < 8 and f"cond 8, uncond {uncond}" in said
    assert f"branch 'uncond' was left out in {8 - uncond} of 8 evaluations" in said
    signs = next(iter(told["trace"].values()))
    assert len(signs) == 8 and signs[0] == "#" and "." in signs and f"  {signs}  blocks.0" in said
    assert len(told["facts"]["local_error"]) == 6 and "estimated local error" in said


def test_a_part_that_did_nothing_says_why(ornstein, tmp_path):
    draw(ornstein, tmp_path, "--accelerate", "firstblock:threshold=0.000001")
    said = ornstein("explain", "a").out
    assert (
        "firstblock:threshold=0.000001: did nothing" in said
        and "threshold=1e-06 allows" in said
        and "  ########  blocks.0" in said
    )
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    record["parts"] = {}
    assert any("it was never asked" in line for line in explain_run(record))


def test_what_is_saved_is_what_was_left_out():
    class Cost:
        sites, network, batch = {"b/block": (0.5, 100.0, 0)}, (1.0, 300.0, 0), 1

    told = {
        "steps": 4,
        "calls": {"evaluations": 4, "cond": 4},
        "seconds": 1.0,
        "asked": {"b/block": 4.0},
        "computed": {"b/block": 1.0},
    }
    assert any(line.startswith("saved: 1.50 s and 3e-07 GFLOP of 1.2e-06 (25%)") for line in explain_run(told, Cost()))


def test_a_plan_and_two(ornstein, tmp_path):
    one = Plan("digits", "", steps=8, accelerate=("firstblock:threshold=0.1",))
    figures = {"loss": 0.01, "low": 0.0, "high": 0.02, "n": 9, "confidence": 0.95, "metric": "latent", "max_loss": 0.05,
               "seconds": 0.001, "batch": 4, "times_faster": 3.0, "reference": "steps=60"}  # fmt: skip
    two = Plan("digits", "", steps=12, solver="heun", figures=figures)
    one.save(tmp_path / "one.json")
    two.save(tmp_path / "two.json")
    said = ornstein("explain", "one.json").out
    assert (
        "8 steps in float32" in said
        and "acceleration: firstblock:threshold=0.1: " in said
        and "nothing was measured" in said
    )
    assert "promised with 95%: latent at most 0.05" in "\n".join(
        explain_plan(two)
    ) and "3.00 times faster" in "\n".join(explain_plan(two))
    said = ornstein("explain", "one.json", "two.json").out.splitlines()
    assert {"steps: 8 -> 12", "solver: ddim -> heun", "accelerate: firstblock:threshold=0.1 -> none",
            "figures.loss: none -> 0.01"} <= set(said)  # fmt: skip
    assert differences(one, one) == ["the plans are the same"]


def test_bad_input(ornstein, tmp_path):
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(OrnsteinError, match="cannot be read"):
        read(tmp_path / "torn.json")
    assert "there is no run or plan" in ornstein("explain", "nowhere").err
    Plan().save(tmp_path / "p.json")
    assert "3 things" in ornstein("explain", "p.json", "p.json", "p.json").err


def test_what_has_gone_is_said(tmp_path):
    told = {"steps": 4, "calls": {"evaluations": 4, "cond": 4}, "seconds": 1.0, "asked": {"b/block": 4.0}, "computed": {},
            "plan": {"accelerate": ["magcache:threshold=0.1,calibrated='gone.safetensors'", "taylorsear:interval=2"]}}  # fmt: skip
    said = "\n".join(explain_run(told))
    assert "taylorsear:interval=2: cannot be built any more" in said and "saved: not known" in said


def test_a_second_attention_of_a_module_counts_as_attention():
    class Cost:
        sites, network, batch = {"a/attention": (0.5, 10.0, 0)}, (1.0, 100.0, 0), 1

    told = {"steps": 1, "calls": {"evaluations": 1, "cond": 1}, "seconds": 1.0, "asked": {"a/attention": 1.0, "a#1/attention": 1.0},
            "computed": {}}  # fmt: skip
    assert any(line.startswith("saved: 1.00 s and 2e-08 GFLOP of 1e-07 (20%)") for line in explain_run(told, Cost()))


def test_a_plan_with_figures_of_its_own_promises_nothing():
    said = explain_plan(Plan(figures={"loss": 0.1}))
    assert "nothing was measured" in said[-1]
    assert "holds for guidance: none" in explain_plan(Plan(made_for={"guidance": ""}))
