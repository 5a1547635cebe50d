"""What several tests of this room stand on: a tiny network of transformers, and a walk through given times."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoiser
from ornstein.core.seam import Run, attach, calling, running

UNEVEN = torch.tensor([1.0, 0.93, 0.85, 0.7, 0.66, 0.5, 0.43, 0.3, 0.2, 0.15, 0.05], dtype=torch.float64)
TIMES = torch.stack([UNEVEN, UNEVEN.flip(0)], 1)  # the rows stand at different times


def forecasts(net: nn.Module, plugin: object, times: Tensor, site: str) -> tuple[Tensor, float]:
    """What comes out [K, B] of a network that is fed with its own time, and how often the site was computed."""
    run, out = Run(), []
    detach = attach(net, plugin)
    try:
        with running(run):
            for k, t in enumerate(times):
                with calling(Clock(k, t=t, ids=(0, 1))):
                    out.append(net(t.double()))
    finally:
        detach()
    return torch.stack(out), run.record.computed_at[site]


@cache
def denoiser() -> Denoiser:
    """A random DiT of four blocks that changes slowly with the time, as a trained one does."""
    torch.manual_seed(3)
    net = catalog.build("backbones", "dit:channels=1,patch=2,width=32,depth=4,heads=4,classes=10")
    for key, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.02 if key.startswith("time") else 0.12)
    return Denoiser(net.eval().requires_grad_(False), catalog.build("processes", "flow"))


def labels(source: torch.Generator, batch: int) -> dict[str, Tensor]:
    return {"label": torch.randint(10, (batch,), generator=source)}
