"""What the seam costs where it does nothing: a plugin that computes everything, at every block and every branch.

python benchmarks/seam.py [--batch 64] [--steps 20] [--repeats 15] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from interleaved import digits_model, measure, report, written

from ornstein.core import catalog
from ornstein.core.effects import Effects
from ornstein.core.loop import sample
from ornstein.core.seam import attach


@dataclass(frozen=True)
class Identity:
    """Computes what it is asked for. grains: where it sits."""

    grains: tuple[str, ...] = ("block",)
    effects = Effects.of()

    def select(self, sites: Any) -> list:
        return [s for s in sites if s.grain in self.grains]

    def start(self) -> dict:
        return {}

    def around(self, site: Any, clock: Any, streams: dict, run: Any, memory: Any) -> dict:
        return run(streams)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("batch", 64), ("steps", 20), ("repeats", 15), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    solver, cond = catalog.build("solvers", "ddim"), {"label": torch.arange(a.batch) % 10}
    models = {name: digits_model() for name in ("bare", "blocks", "blocks and branches")}
    attach(models["blocks"].backbone, Identity())
    attach(models["blocks and branches"].backbone, Identity(("block", "branch")))
    noise = torch.randn(a.batch, *models["bare"].shape, generator=torch.Generator().manual_seed(0))

    def run(name: str) -> Any:
        return lambda: sample(models[name].denoiser, noise, solver, a.steps, cond=cond)

    assert all(torch.equal(run("bare")(), run(n)()) for n in models), "attached, but not the same"
    seconds = measure({name: run(name) for name in models}, a.repeats)
    title = f"identity plugin attached, {models['bare'].name}, batch {a.batch}, {a.steps} steps"
    written(a.json, [report(title, seconds, "bare", {"blocks": 1.03, "blocks and branches": 1.03})])


if __name__ == "__main__":
    main()
