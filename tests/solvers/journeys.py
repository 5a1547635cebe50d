"""What the contracts of this room walk through: rows at times of their own, and the whole way from the prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ornstein.core import catalog
from ornstein.core.clock import NoiseSource
from ornstein.core.loop import sample
from ornstein.testbeds import Mixture


def rows_are_alone(solver: Any, process: str, x: Tensor, times: Tensor, atol: float) -> None:
    """times [B, K]: every row of the batch ends, finite, where it would have by itself."""
    mixture = Mixture.random(catalog.build("processes", process), dims=4, components=3, std=0.8)
    source = NoiseSource.of(0, range(len(x)))

    def go(y: Tensor, times: Tensor, source: NoiseSource) -> Tensor:
        memory = solver.start(y, source)
        for t, s in zip(times[..., :-1].unbind(-1), times[..., 1:].unbind(-1)):
            y, memory = solver.step(mixture, mixture.process, y, t, s, memory)
        return y

    together = go(x, times, source)
    assert torch.isfinite(together).all()
    for i in range(len(x)):
        alone = go(x[i : i + 1], times[i], source.gather(torch.tensor([i])))
        assert torch.allclose(together[i], alone[0], atol=atol), i


def ends_near_the_blobs(solver: Any) -> None:
    """From t_max, where a flow has no signal at all, to the data: finite, in one step or in many, near the blobs."""
    for process in ("flow", "vp", "vp:schedule=linear", "edm"):
        ring = Mixture.ring(catalog.build("processes", process))
        for steps in (1, 2, 40):
            x = sample(ring, (16, 2), solver, steps, rule="karras" if process == "edm" else "uniform")
            assert x.dtype == torch.float32 and torch.isfinite(x).all(), (process, steps)
        assert (torch.cdist(x.double(), ring.means).min(1)[0] < 0.6).all(), process
