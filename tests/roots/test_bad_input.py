"""Every mistake answers with the object and the remedy, exit code 2, no traceback, and nothing half written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import attach
from ornstein.model import load, save


def refused(ran, *words: str) -> None:
    assert ran.code == 2, (ran.code, ran.err)
    assert "Traceback" not in ran.err and ran.err.count("error: ") == 1, ran.err
    said = " ".join(ran.err.split())
    assert all(w in said for w in words), f"{words} not all in: {said}"


def nothing_written(folder, but=()) -> None:
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name not in but)
    assert not left, left


WRONG = {
    "unknown model": (["--model", "emojy"], ["unknown model 'emojy'"]),
    "no such model file": (
        ["--model", "no/such.safetensors"],
        ["no model file", "no/such.safetensors", "Shipped models"],
    ),
    "unknown solver": (["--solver", "ddimm"], ["unknown method in solvers/ 'ddimm'", "Did you mean 'ddim'"]),
    "unknown guidance": (["--guidance", "cgf:scale=3"], ["unknown method in guidance/ 'cgf'", "Did you mean 'cfg'"]),
    "unknown acceleration": (
        ["--accelerate", "firstblok"],
        ["unknown method in acceleration/", "Did you mean 'firstblock'"],
    ),
    "unknown setting": (["--solver", "ddim:etta=1"], ["unknown setting of solvers/ddim 'etta'", "Did you mean 'eta'"]),
    "unknown setting of a plugin": (
        ["--accelerate", "firstblock:treshold=1"],
        ["setting", "'treshold'", "'threshold'"],
    ),
    "settings that cannot be read": (
        ["--solver", "ddim:0.5"],
        ["cannot read the settings of 'ddim:0.5'", "NAME:key=value"],
    ),
    "no steps": (["--steps", "0"], ["steps=0", "at least 1"]),
    "negative steps": (["--steps", "-4"], ["steps=-4", "at least 1"]),
    "no plan there": (["--plan", "no.json"], ["no plan at no.json", "--save-plan"]),
    "no prompt file": (["--prompts-file", "no.txt"], ["cannot read the prompts in no.txt", "one prompt in each line"]),
    "unwritable folder": (["--out", "/proc/none/pictures"], ["cannot write to /proc/none/pictures", "--out"]),
    "unknown class": (["eleven"], ["unknown class 'eleven'"]),
    "an empty prompt": ([" "], ["an empty prompt", "Say what to draw"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_generate_refuses(case, ornstein, weights, tmp_path):
    options, words = WRONG[case]
    model = [] if "--model" in options else ["--model", weights["dit"]]
    refused(ornstein("generate", "3", *model, *options), *words)
    nothing_written(tmp_path)


def test_no_prompt_at_all(ornstein, tmp_path):
    refused(ornstein("generate", "--out", "a"), "no prompt", "Say what to draw")
    nothing_written(tmp_path)


def test_a_folder_that_is_not_empty_is_left_alone(ornstein, weights, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("keep")
    refused(ornstein("generate", "3", "--model", weights["dit"], "--out", "a"), "is not empty", "--overwrite")
    nothing_written(tmp_path, but=("a", "mine.txt"))


def test_a_file_in_place_of_the_folder(ornstein, weights, tmp_path):
    (tmp_path / "a").write_text("keep")
    refused(ornstein("generate", "3", "--model", weights["dit"], "--out", "a/b"), "cannot write to", "--out")
    refused(ornstein("generate", "3", "--model", weights["dit"], "--out", "a"), "cannot write to", "--out")
    assert (tmp_path / "a").read_text() == "keep"


def test_a_prompt_file_that_is_not_text(ornstein, weights, tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00\x81")
    refused(ornstein("generate", "--prompts-file", "p.txt", "--model", weights["dit"]), "p.txt", "UTF-8")
    nothing_written(tmp_path, but=("p.txt",))


def test_an_unwritable_plan_leaves_no_pictures_either(ornstein, weights, tmp_path):
    refused(
        ornstein("generate", "3", "--model", weights["dit"], "--out", "a", "--save-plan", "no/such/plan.json"),
        "plan.json",
    )
    nothing_written(tmp_path)


@pytest.mark.parametrize("keep", [0, 6, 200, -100])
def test_a_truncated_weight_file(keep, ornstein, weights, tmp_path):
    whole = weights["dit"].read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:keep])
    refused(ornstein("generate", "3", "--model", "w.safetensors"), "w.safetensors", "damaged")
    nothing_written(tmp_path, but=("w.safetensors",))


def test_a_foreign_weight_file(ornstein, tmp_path):
    save_file({"layer.weight": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    refused(ornstein("generate", "3", "--model", "w.safetensors"), "w.safetensors", "another program")
    (tmp_path / "v.safetensors").write_text("not a weight file at all, but long enough to be one")
    refused(ornstein("generate", "3", "--model", "v.safetensors"), "v.safetensors", "damaged")
    nothing_written(tmp_path, but=("w.safetensors", "v.safetensors"))


def test_weights_that_do_not_fit_their_description(ornstein, weights, tmp_path):
    from safetensors import safe_open

    with safe_open(weights["dit"], "pt") as file:
        meta, tensors = file.metadata(), {k: file.get_tensor(k) for k in list(file.keys())[1:]}
    save_file(tensors, tmp_path / "w.safetensors", meta)
    refused(ornstein("generate", "3", "--model", "w.safetensors"), "w.safetensors", "do not fit")


def test_a_plan_for_another_model(ornstein, weights, small_model, tmp_path):
    save(tmp_path / "other.safetensors", small_model("dit", seed=1))
    assert ornstein("generate", "3", "--model", weights["dit"], "--out", "a", "--save-plan", "plan.json").code == 0
    ran = ornstein("generate", "3", "--model", "other.safetensors", "--plan", "plan.json", "--out", "b")
    refused(ran, "the plan was made for", "Make a plan for this model")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"stepps": 3}', '{"steps": 0}', '{"steps": "many"}', "\x00"])
def test_a_damaged_plan(text, ornstein, weights, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    refused(ornstein("generate", "3", "--model", weights["dit"], "--plan", "plan.json"))
    nothing_written(tmp_path, but=("plan.json",))


def test_two_plugins_that_own_one_site(ornstein, weights, tmp_path):
    ran = ornstein(
        "generate", "3", "--model", weights["dit"], "--accelerate", "firstblock", "--accelerate", "firstblock"
    )
    refused(ran, "FirstBlock")
    nothing_written(tmp_path)
    model, part = load(weights["dit"]), catalog.load("acceleration", "firstblock")
    detach = attach(model.backbone, part())
    with pytest.raises(OrnsteinError, match="(?i)both"):
        attach(model.backbone, part())
    detach()


def test_a_plugin_that_would_do_nothing(ornstein, weights, tmp_path):
    refused(ornstein("generate", "3", "--model", weights["unet"], "--accelerate", "firstblock"), "FirstBlock")
    nothing_written(tmp_path)


@pytest.mark.parametrize("backbone", ["dit", "unet"])
def test_a_size_that_the_model_cannot_do(backbone, weights):
    with pytest.raises(OrnsteinError, match="7"):
        load(weights[backbone]).generate(["3"], size=(7, 7))


def test_conditions_that_are_wrong(weights):
    from ornstein.core.loop import sample

    model = load(weights["dit"])
    solver = catalog.build("solvers", "ddim")
    with pytest.raises(OrnsteinError, match="3 rows for a batch of 2"):
        sample(model.denoiser, (2, 1, 8, 8), solver, 2, cond={"label": torch.tensor([1, 2, 3])})
    with pytest.raises(OrnsteinError, match="not finite"):
        sample(model.denoiser, (1, 1, 8, 8), solver, 2, cond={"label": torch.tensor([np.nan])})


@pytest.mark.parametrize("arguments, words", [
    (["methods", "zzzz"], ["'zzzz'"]),
    (["show", "ddimm"], ["unknown method 'ddimm'", "Did you mean 'ddim'"]),
    (["check", "ddimm"], ["Did you mean 'ddim'"]),
    (["check"], ["nothing to check", "--all"]),
    (["check", "ddim", "--all"], ["both", "--all"]),
    (["check", "train_digits"], ["no evidence"]),
    (["train", "train_digit"], ["unknown recipe", "Did you mean 'digits'"]),
    (["train", "train_digits", "--set", "stepps=3"], ["'stepps'", "Did you mean 'steps'"]),
    (["train", "train_digits", "--set", "steps"], ["cannot read --set steps", "KEY=VALUE"]),
    (["train", "train_digits", "--set", "steps=many"], ["steps=many", "whole number"]),
    (["train", "train_digits", "--set", "steps=0"], ["steps=0", "more than 0"]),
    (["train", "train_kl"], ["takes pictures", "from Python"]),
    (["train", "digits", "--resume", "--out", "nowhere"], ["holds no checkpoint", "without --resume"]),
    (["train", "train_digits", "--set", "backbone=dti"], ["'dti'", "Did you mean 'dit'"]),
    (["train", "train_digits", "--set", "steps=1", "--out", "/proc/none"], ["cannot write to /proc/none"]),
    (["fetch", "emojis"], ["Did you mean 'emoji'"]),
    (["fetch", "digits"], ["ships with the package"]),
], ids=lambda v: " ".join(v) if isinstance(v, list) and v[0][0].islower() else "")  # fmt: skip
def test_other_commands_refuse(arguments, words, ornstein, tmp_path):
    refused(ornstein(*arguments), *words)
    nothing_written(tmp_path)


def test_misspelt_options_and_commands_are_not_ours_to_answer_but_end_the_same(ornstein):
    for arguments in (["generate", "3", "--stepz", "3"], ["generat", "3"], ["generate", "3", "--steps", "many"]):
        ran = ornstein(*arguments)
        assert ran.code == 2 and "Traceback" not in ran.err


def test_a_damaged_checkpoint_is_not_trained_over(ornstein, tmp_path):
    short = ("train", "train_digits", "--set", "batch=4", "--set", "steps=1", "--set", "every=1", "--out", "r")
    assert ornstein(*short).code == 0
    path = tmp_path / "r/checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused(ornstein(*short, "--resume"), "checkpoint", "damaged")


def test_no_partial_folder_survives_a_failure_while_writing(ornstein, weights, tmp_path, monkeypatch):
    from ornstein import present

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "01-7.png")

    monkeypatch.setattr(present, "contact_sheet", full)
    refused(ornstein("generate", "3", "7", "--model", weights["dit"], "--out", "deep/er/a"), "No space left")
    nothing_written(tmp_path)
    shutil.rmtree(tmp_path / "deep", ignore_errors=True)


def test_a_record_that_names_foreign_paths_deletes_nothing(ornstein, weights, tmp_path):
    (tmp_path / "keep.txt").write_text("keep")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/record.json").write_text(json.dumps({"files": ["../keep.txt", 3, "record.json"]}))
    assert ornstein("generate", "3", "--model", weights["dit"], "--out", "a", "--overwrite").code == 0
    assert (tmp_path / "keep.txt").read_text() == "keep"
