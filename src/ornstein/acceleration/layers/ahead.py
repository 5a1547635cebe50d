"""One network call for several coming times of a run: the same rows once per time, told another time in each copy.

For parts whose inside does not read the present x, so that what the network would say at coming times is known now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import Call, Streams
from ornstein.core.sites import Site

__all__ = ["ahead", "coming", "copies"]

TIMES = ("t", "timestep")  # what networks call the time that they are told


def coming(clock: Clock, most: int) -> list[float]:
    """The clock's time and those of the run's next steps, at most so many after it; [] where a clock has no grid, or rows
    with times of their own."""
    t = torch.as_tensor(clock.t)
    if clock.times is None or t.ndim:
        return []
    now = float(t)
    later = clock.times[clock.step + 1 : clock.step + 1 + most].tolist()
    return [now, *(s for s in later if 0 < s < now)]


def copies(clock: Clock, count: int, batch: int) -> tuple[Any, ...]:
    """The ids under which the sites inside are asked, where there are so many copies of the rows."""
    return clock.ids * count if len(clock.ids) == batch else clock.ids


def ahead(site: Site, clock: Clock, streams: Streams, run: Call, times: Sequence[float]) -> list[Streams]:
    """What the network says at each of the times, in one call of len(times) * batch rows, two times at least; copy j is
    rows [j batch, (j + 1) batch). The record counts as many computations as there are copies."""
    batch = next(len(v) for v in streams.values() if isinstance(v, Tensor))
    name = next((n for n in TIMES if isinstance(run.bound.get(n), Tensor)), "")
    told = run.bound.get(name)
    if told is None or told.ndim != 1 or not torch.allclose(told.double(), torch.tensor(times[0]).double().to(told.device)):
        raise OrnsteinError("this network is told something else than the time of the clock, so what it would be told later is "
                            "not known", "Use parallel=False.")  # fmt: skip
    now = torch.tensor(times, dtype=told.dtype).to(told.device).repeat_interleave(batch)
    rows = torch.arange(batch, device=told.device).repeat(len(times))
    call = Call(site, replace(clock, t=now), run.run, run.plugins, {**run.bound, name: now}, run.inner, run.network, run.depth)
    said = call(streams, rows)
    run.done = call.done
    return [{k: v[j * batch : (j + 1) * batch] if isinstance(v, Tensor) else v for k, v in said.items()}
            for j in range(len(times))]  # fmt: skip
