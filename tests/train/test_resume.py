"""A run that was stopped, killed or damaged goes on as if it had not been, or says why it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import Hint, rows, same, tensors, tiny, with_encoder

from ornstein import train
from ornstein.core.errors import OrnsteinError
from ornstein.train import Engine, fit

PROGRAM = Path(__file__).with_name("tiny_training.py")


def weights(model):
    return {k: v.clone() for k, v in model.backbone.state_dict().items()}


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_stopped_and_resumed_is_bit_for_bit_the_straight_run(tmp_path, stop):
    straight = fit(tiny(), tmp_path / "a")
    fit(tiny(), tmp_path / "b", stop_after=stop)
    resumed = fit(tiny(), tmp_path / "b")
    assert same(weights(straight), weights(resumed))
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert same(a, b) and {k.split(".")[0] for k in a} >= {"weights", "average", "moment"}
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    model = [load_file(tmp_path / x / "model.safetensors") for x in "ab"]
    assert same(*model) and same(model[0], weights(straight))


def test_a_row_of_the_log_that_was_half_gathered_goes_on(tmp_path):
    """Rows stand for three steps here, and the run stops within the second."""
    fit(tiny(every=30), tmp_path / "a")
    fit(tiny(every=30), tmp_path / "b", stop_after=5)
    fit(tiny(every=30), tmp_path / "b")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert {r[1] for r in rows(tmp_path / "a") if r[0] == "train"} == {"3", "6", "9", "12"}


def test_the_average_is_not_the_last_weights(tmp_path):
    fit(tiny(), tmp_path)
    stored = tensors(tmp_path)
    assert not torch.equal(stored["weights.0"], stored["average.0"])


def test_killed_in_the_middle_and_resumed(tmp_path):
    """SIGKILL, so that nothing can be tidied up."""
    out = tmp_path / "killed"
    running = subprocess.Popen([sys.executable, str(PROGRAM), str(out), "steps=12", "sleep=0.2"], cwd=PROGRAM.parent)
    give_up = time.monotonic() + 60
    try:
        while not (out / "checkpoint.safetensors").exists():
            assert running.poll() is None and time.monotonic() < give_up
            time.sleep(0.02)
        time.sleep(0.5)  # two steps beyond the checkpoint
        assert running.poll() is None
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    engine = Engine(tiny())
    engine.restore(out / "checkpoint.safetensors")
    assert 4 <= engine.index < 12
    fit(tiny(), out)
    fit(tiny(), tmp_path / "straight")
    assert same(tensors(out), tensors(tmp_path / "straight"))
    assert rows(out) == rows(tmp_path / "straight")
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("number,error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_ctrl_c_and_sigterm_finish_the_step_and_keep_it(tmp_path, number, error):
    training, seen = tiny(), []

    def data(indices):
        seen.append(1)
        if len(seen) == 6:
            signal.raise_signal(number)
        return training.data(indices)

    before = signal.getsignal(number)
    with pytest.raises(error):
        fit(replace(training, data=data), tmp_path / "a")
    assert signal.getsignal(number) is before
    engine = Engine(tiny())
    engine.restore(tmp_path / "a" / "checkpoint.safetensors")
    assert engine.index == 6
    fit(tiny(), tmp_path / "a")
    fit(tiny(), tmp_path / "b")
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b")) and rows(tmp_path / "a") == rows(tmp_path / "b")


def test_weights_of_auxiliary_losses_train_and_survive(tmp_path):
    """One part starts late (its moments appear in the middle), one never has a gradient."""
    start = {k: v.clone() for k, v in Hint(6).state_dict().items()}
    ends = {}
    for name, stops in (("straight", [None]), ("stopped", [4, 3, None])):
        for stop in stops:
            hint = Hint(6)
            fit(tiny(hint), tmp_path / name, stop_after=stop)
        ends[name] = hint.state_dict()
    assert same(ends["straight"], ends["stopped"])
    assert not torch.equal(ends["straight"]["read.weight"], start["read.weight"])
    assert torch.equal(ends["straight"]["idle.weight"], start["idle.weight"])
    a, b = tensors(tmp_path / "straight"), tensors(tmp_path / "stopped")
    assert same(a, b) and sum(k.startswith("extra.") for k in a) == 4
    assert rows(tmp_path / "straight") == rows(tmp_path / "stopped")
    assert ["train", "12", "hint"] in [r[:3] for r in rows(tmp_path / "straight")]


def test_an_encoder_that_trains_is_averaged_saved_and_resumed(tmp_path):
    start = {k: v.clone() for k, v in with_encoder().model.encoder.state_dict().items()}
    straight = fit(with_encoder(), tmp_path / "a")
    fit(with_encoder(), tmp_path / "b", stop_after=5)
    resumed = fit(with_encoder(), tmp_path / "b")
    assert same(straight.encoder.state_dict(), resumed.encoder.state_dict()) and same(weights(straight), weights(resumed))
    assert not torch.equal(straight.encoder.embedding.weight, start["embedding.weight"])
    stored = tensors(tmp_path / "a")
    of = [k for k, v in stored.items() if v.shape == (257, 8)]  # the table of bytes and its moments
    (average,) = (stored[k] for k in of if k.startswith("average."))
    (last,) = (stored[k] for k in of if k.startswith("weights."))
    assert torch.equal(straight.encoder.embedding.weight, average) and not torch.equal(average, last)
    from ornstein.model import load

    loaded = load(tmp_path / "a" / "model.safetensors")
    assert same(loaded.encoder.state_dict(), straight.encoder.state_dict())
    one, two = (m.generate(["digit 3"], steps=2, solver="ddim").x for m in (loaded, straight))
    assert torch.equal(one, two)


def test_global_random_numbers_of_a_network_resume_too(tmp_path):
    def dropping():
        training = tiny()
        training.model.backbone.blocks[0].mlp[1] = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Dropout(0.5))
        return training

    training = dropping()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(training, tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state()), "the caller's random numbers are the caller's"
    fit(dropping(), tmp_path / "b", stop_after=5)
    torch.manual_seed(77)
    fit(dropping(), tmp_path / "b")
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    fit(tiny(), tmp_path / "c")
    assert not same(tensors(tmp_path / "a"), tensors(tmp_path / "c")), "the dropout did nothing"


def test_a_finished_run_is_handed_back_and_a_longer_one_goes_on(tmp_path):
    one = fit(tiny(), tmp_path)
    assert same(weights(one), weights(fit(tiny(), tmp_path)))
    fit(tiny(steps=14), tmp_path)
    with pytest.raises(OrnsteinError, match=r"of step 14, past steps=12.*Ask for more steps"):
        fit(tiny(), tmp_path)


def test_without_resume_it_starts_again(tmp_path):
    fit(tiny(), tmp_path)
    fit(tiny(), tmp_path, resume=False)
    assert len({tuple(r[:3]) for r in rows(tmp_path)}) == len(rows(tmp_path))


def test_a_damaged_checkpoint_is_refused_with_a_remedy(tmp_path):
    fit(tiny(steps=4), tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"\x00" * 100, whole[:4] + b"\xff" * 4 + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(OrnsteinError, match=r"checkpoint .* is damaged.*Delete it to start again"):
            fit(tiny(), tmp_path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(OrnsteinError, match="is damaged"):
        fit(tiny(), tmp_path)


@pytest.mark.parametrize("change,named", [({"lr": 0.1}, "lr"), ({"batch": 8, "seed": 1}, "batch, seed"),
                                          ({"width": 32}, "description.*shapes"), ({"dtype": "auto"}, "dtype")])  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, named):
    fit(tiny(steps=4), tmp_path)
    with pytest.raises(OrnsteinError, match=rf"of another training: .*{named}.*differ.*same settings"):
        fit(tiny(**change), tmp_path)


def test_other_data_and_other_auxiliaries_are_refused(tmp_path):
    fit(tiny(steps=4), tmp_path)
    with pytest.raises(OrnsteinError, match="number of samples"):
        fit(replace(tiny(), size=100), tmp_path)
    with pytest.raises(OrnsteinError, match="shapes of the weights"):
        fit(tiny(Hint()), tmp_path)


def test_a_folder_that_cannot_be_written_is_named_before_any_step(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OrnsteinError, match=r"cannot write to .*file.*Give another --out"):
            fit(tiny(), out)


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    """The disk fills while the checkpoint is written: the last one stays. What a killed run left is cleared away."""
    fit(tiny(), tmp_path, stop_after=4)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OrnsteinError, match="cannot write to .* any more .No space left on device.*go on with --resume"):
        train._checkpoint(Engine(tiny()), tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept and not list(tmp_path.glob("*.tmp"))
    left = tmp_path / "checkpoint.safetensors.999.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    fit(tiny(), tmp_path)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".writable*"))
