"""A training of seconds: digits, a DiT of a few thousand weights. Also run as a program, by the tests that need processes.

python tiny_training.py OUT KEY=VALUE... + OUT KEY=VALUE...   runs one after the other. Keys: those of the recipe and of
Settings; sleep: seconds per step; hint: 1 for an auxiliary loss with weights of its own, 'apart' where these start
differently in each process; encoder: 1 for a byte encoder that trains with the network
"""

from __future__ import annotations

import csv
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ornstein.model import create
from ornstein.recipes import prepare
from ornstein.train import Settings, Training, fit

TINY = {"width": 16, "depth": 1, "batch": 16, "steps": 12, "every": 4, "warmup": 2, "lr": 3e-3, "dtype": "float32"}


class Hint(nn.Module):
    """An auxiliary loss with weights of its own, active from step `start` on; `idle` never has a gradient."""

    taps = ("blocks.0",)

    def __init__(self, start: int = 0, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.start, self.read, self.idle = start, nn.Linear(16, 4), nn.Linear(2, 2)
        self.read.weight.data.add_(shift)

    def forward(self, output, batch, step):
        if step < self.start:
            return {"hint": output.value.new_zeros(())}
        read = self.read(output.taps["blocks.0"]).flatten(1)
        return {"hint": 0.1 * (read - batch["x0"].flatten(1)[:, : read.shape[1]]).square().mean()}


def tiny(hint: Hint | None = None, sleep: float = 0.0, prompts: int = 0, **changes: object) -> Training:
    training = prepare("digits", TINY | changes)
    data = training.data

    def slow(indices: torch.Tensor) -> dict:
        time.sleep(sleep)
        return data(indices)

    loss = training.loss if hint is None else replace(training.loss, auxiliaries=(hint,))
    return replace(training, loss=loss, data=slow, prompts=training.prompts[:prompts])


def with_encoder(**changes: object) -> Training:
    """Text-conditional, the text's encoder trained with the network."""
    torch.manual_seed(3)
    model = create({"backbone": {"name": "dit", "channels": 1, "patch": 4, "width": 16, "depth": 1, "text_dim": 8},
                    "process": {"name": "flow"}, "encoder": {"name": "bytes", "dim": 8, "length": 8},
                    "shape": [1, 8, 8]}, "worded")  # fmt: skip
    base = prepare("digits", TINY)
    words = [f"digit {d}" for d in range(10)]

    def data(indices: torch.Tensor) -> dict:
        batch = base.data(indices)
        return {"x0": batch["x0"], "prompts": [words[d] for d in batch["cond"]["label"].tolist()]}

    held_out = {"x0": base.held_out["x0"][:16], "prompts": words + words[:6]}
    settings = Settings(**{k: v for k, v in (TINY | changes).items() if k not in ("width", "depth")})
    return Training(model, base.loss, data, base.size, held_out, (), settings)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint.safetensors")


def rows(folder: Path) -> list[list[str]]:
    """The log without the columns of the clock."""
    with (folder / "log.csv").open(newline="") as file:
        return [r for r in csv.reader(file) if r[2] != "img/s"]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def run(out: str, *texts: str) -> None:
    """One training by words; an error is told, not raised."""
    from ornstein.core.errors import OrnsteinError
    from ornstein.recipes import _converted

    given = dict(text.split("=") for text in texts)
    sleep, hint, encoder = float(given.pop("sleep", 0)), given.pop("hint", ""), given.pop("encoder", "")
    given = {k: _converted(k, v, type(TINY[k]), TINY[k]) for k, v in given.items()}
    part = Hint(2, float(os.environ["RANK"]) if hint == "apart" else 0.0) if hint else None
    try:
        fit(with_encoder(**given) if encoder else tiny(part, sleep, **given), out)
    except OrnsteinError as error:
        print(f"refused: {error}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for words in " ".join(sys.argv[1:]).split(" + "):
        run(*words.split(" "))
