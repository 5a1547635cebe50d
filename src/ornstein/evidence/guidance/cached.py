"""Evidence for guidance with a kept difference: distance to guidance asked at every evaluation, at equal network calls."""

from __future__ import annotations

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.denoiser import guide
from ornstein.core.loop import sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.guidance._trial import _Counter

STEPS, SEEDS, EACH = 40, 4, 4
FULL = f"relative distance to the guided run of {STEPS} steps and {2 * STEPS} calls (lower)"
CLAIM = ("On the shipped digits guided at scale 2, a kept difference stays nearer to the fully guided run than fewer steps of the "
         "same solver, fewer steps of DPM-Solver++(2M), and guidance only at high noise, at equal network calls.")  # fmt: skip


def draw(rule: str, steps: int = STEPS, solver: str = "ddim") -> tuple[Tensor, float]:
    """x [SEEDS * EACH, ...] and the network calls of the run."""
    from ornstein.model import load

    counter, n = _Counter(load("digits").denoiser), SEEDS * EACH
    x = sample(guide(counter, catalog.build("guidance", rule)), (n, 1, 8, 8), catalog.build("solvers", solver), steps,
               cond={"label": torch.arange(n) % 10}, seed=[k // EACH for k in range(n)])  # fmt: skip
    return x, len(counter.calls)


def _row(name: str, kind: str, drawn: tuple[Tensor, float], truth: Tensor) -> Row:
    gap = (drawn[0] - truth).reshape(SEEDS, -1).norm(dim=1) / truth.reshape(SEEDS, -1).norm(dim=1)
    return Row(name, kind, FULL, gap.tolist(), f"{drawn[1]} NFE")


def run(quick: bool = True) -> Evidence:
    truth, rows, wins = draw("cfg:scale=2")[0], [], []
    settings = ("every=2,begin=1", "every=5,begin=1") + (() if quick else ("every=3,begin=1", "every=5", "every=10,begin=1"))
    for text in settings:
        drawn = draw(f"cached:scale=2,{text}")
        n, guided = -(-drawn[1] // 2), drawn[1] - STEPS  # rounded up, in the others' favour
        mine = _row(f"cached:{text}", "method", drawn, truth)
        edge = 1 - (guided - 0.5) / STEPS  # flow times above it are guided: as many as the method asks
        others = [_row(f"ddim, {n} guided steps, beside {text}", "natural", draw("cfg:scale=2", n), truth),
                  _row(f"dpmpp2m, {n} guided steps, beside {text}", "equal-cost", draw("cfg:scale=2", n, "dpmpp2m"), truth),
                  _row(f"guided above flow time {edge:.2f}, beside {text}", "equal-cost",
                       draw(f"cfg:scale=2,interval=({edge},1.0)"), truth)]  # fmt: skip
        rows += [mine, *others]
        wins.append([mine.mean < o.mean and sum(a < b for a, b in zip(mine.values, o.values)) > SEEDS / 2 for o in others])
    for text in () if quick else ("every=5,begin=1,boost=0.2",):
        rows.append(_row(f"cached:{text}", "reference", draw(f"cached:scale=2,{text}"), truth))
    return Evidence(CLAIM, rows, verdict(all(map(all, wins)), all(w[0] for w in wins)))
