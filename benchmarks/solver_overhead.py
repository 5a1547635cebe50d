"""What a step of a one-call multistep solver costs besides the network: against the bare arithmetic on the tensors.

python benchmarks/solver_overhead.py [--batch 16] [--steps 40] [--repeats 15] [--threads 1] [--json FILE]

The denoiser hands back one and the same tensor as the answer that the solver works with. The bare arithmetic scales x and
adds two or four answers, with weights known beforehand. The first run on a grid also computes the weights: `first_us`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from interleaved import measure, report, written

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.prediction import Prediction

SOLVERS = {"ddim": "x0", "dpmpp2m": "x0", "dpmpp3m": "x0", "unipc": "x0", "unipc:points=3": "x0", "deis": "noise",
           "lms": "noise", "pndm": "noise", "ghvb": "noise", "evodiff": "x0", "dpmsolver_v3": "x0",
           "usf": "x0"}  # the answer that it works with  # fmt: skip
BOUND = 40.0  # microseconds per step


@torch.no_grad()
def overhead(batch: int, steps: int, repeats: int) -> dict:
    process = catalog.build("processes", "vp")
    x, answer = (torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    source = NoiseSource.of(0, range(batch))

    def by(spec: str, kind: str, times: list):
        solver = catalog.build("solvers", spec)

        def go() -> None:
            y, memory = x, solver.start(x, source)
            for t, s in zip(times[:-1], times[1:]):
                y, memory = solver.step(
                    lambda z, r: Prediction(z, process.at(r, z), kind, answer), process, y, t, s, memory
                )

        return go

    def bare(added: int):
        def go() -> None:
            y = x
            for _ in range(steps):
                y = y * 0.9
                for _ in range(added):
                    y = y.add_(answer, alpha=0.1)

        return go

    def grid(shift: float) -> list:
        return list(torch.linspace(0.98 - shift, 0.02, steps + 1, dtype=torch.float64).unbind())

    contestants = {"bare, 2 answers": bare(2), "bare, 4 answers": bare(4)}
    contestants |= {spec: by(spec, kind, grid(0.0)) for spec, kind in SOLVERS.items()}
    seconds = measure(contestants, repeats)
    each = {name: statistics.median(values) / steps * 1e6 for name, values in seconds.items()}
    first = {}
    for i, (spec, kind) in enumerate(SOLVERS.items()):
        go, began = by(spec, kind, grid(1e-4 * (i + 1))), time.process_time()  # a grid that nobody has asked for yet
        go()
        first[spec] = (time.process_time() - began) / steps * 1e6
    title = f"multistep solvers, [{batch}, 1, 8, 8], {steps} steps; ms of the whole run"
    result = report(title, seconds, "bare, 4 answers", {}, us_per_step=each, first_us=first, bound_us=BOUND)
    for spec in SOLVERS:
        kept = "kept" if each[spec] <= BOUND else "BROKEN"
        print(f"{spec:16} {each[spec]:6.1f} us per step ({kept}: {BOUND:.0f}), {first[spec]:6.0f} the first time")
    return result


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("batch", 16), ("steps", 40), ("repeats", 15), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    written(a.json, [overhead(a.batch, a.steps, a.repeats)])


if __name__ == "__main__":
    main()
