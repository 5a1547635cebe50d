"""Two processes under Hugging Face accelerate are one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import Hint, rows, tensors, tiny, with_encoder

from ornstein.train import _share, fit

pytest.importorskip("accelerate")
PROGRAM = Path(__file__).with_name("tiny_training.py")


def launch(*words: str) -> str:
    """The program on two processes of one machine, with what it said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d",
               "--rdzv_endpoint=127.0.0.1:0", "--local_addr=127.0.0.1", str(PROGRAM), *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def agree(one: Path, other: Path, steps: str) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        if name.startswith(("weights.", "average.", "extra.")):
            assert torch.allclose(value, b[name], atol=2e-5, rtol=1e-4), name
    ra, rb = rows(one), rows(other)
    assert [r[:3] for r in ra] == [r[:3] for r in rb] and any(r[1] == steps for r in ra)
    for x, y in zip(ra[1:], rb[1:]):
        assert float(x[3]) == pytest.approx(float(y[3]), rel=1e-3, abs=1e-5), (x, y)


def test_two_processes_are_one(tmp_path):
    """With dropped conditions, an auxiliary loss with weights of its own, an encoder that trains, and a resume by another
    number of processes. One launch, since starting costs most."""
    names = ("one", "two", "mixed", "words", "words-two", "own", "odd")
    one, two, mixed, words, words_two, own, odd = (tmp_path / n for n in names)
    fit(tiny(Hint(2)), one)
    fit(tiny(Hint(2)), mixed, stop_after=5)
    fit(with_encoder(steps=6), words)
    said = launch(f"{two} hint=1 + {mixed} hint=1 + {words_two} encoder=1 steps=6 + {own} hint=apart + {odd} batch=15")
    agree(one, two, "12")
    agree(one, mixed, "12")
    agree(words, words_two, "6")
    refusal = "refused: a batch of 15 does not divide among 2 processes. Choose a multiple."
    assert said.count(refusal) == 2 and said.count("refused") == 2, said
    agree(one, own, "12")  # the first process's weights are everybody's


def test_shares_of_a_batch():
    batch = {"x": torch.arange(6), "cond": {"label": torch.arange(6) * 2}, "prompts": list("abcdef"),
             "table": torch.zeros(3), "scale": torch.tensor(2.0)}  # fmt: skip
    one, two = (_share(batch, rank, 2, 6) for rank in (0, 1))
    assert one["x"].tolist() == [0, 2, 4] and two["cond"]["label"].tolist() == [2, 6, 10]
    assert two["prompts"] == ["b", "d", "f"] and one["table"].shape == (3,) and one["scale"] == 2
