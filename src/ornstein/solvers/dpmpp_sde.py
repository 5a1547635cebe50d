"""DPM-Solver++ on the reverse SDE: exponential steps of x0 in log-SNR with exact fresh noise.

DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, Lu et al., 2022, arXiv:2211.01095
(SDE-DPM-Solver++); '2S' and '3M' and eta after k-diffusion (Crowson, 2022). With tau^2 = eta, h = lambda_s -
lambda_t, H = (1 + eta) h: x_s = (s_s/s_t) e^(-eta h) x_t + a_s integral_0^H e^(v-H) x0(v) dv + s_s sqrt(1 - e^(-2 eta h))
xi, where x0(v) is the line or parabola through what the network said before. Costs one network call per step, '2S' two,
except for the step to the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.stochastic import adams, ancestral, decayed, renew, split, weights

__all__ = ["DPMppSDE"]

KINDS = {"1S": 1, "2S": 2, "2M": 2, "3M": 3}


def _multistep(levels: tuple[Levels, ...], eta: float, slope: str, half: bool) -> tuple[Tensor, ...]:
    """Weights of fresh noise, x_t, x0 now, x0 before, ..."""
    now, to, *before = levels
    old, _, fresh = split(now, to, decayed(now, to, eta))
    h = (to.logsnr - now.logsnr) / 2
    nodes = (torch.zeros_like(h), *((b.logsnr - now.logsnr) / 2 for b in before))
    first = "midpoint" if slope == "midpoint" else "exact"
    return fresh, old, *(to.a * w for w in adams(h, 1 + eta, nodes, first, half))


def _middle(levels: tuple[Levels, ...], process: Process) -> tuple[Tensor, ...]:
    """The time half way in lambda; from pure noise, half way in flow time; where the data are the end, t itself."""
    now, to = levels
    half = (now.logsnr + to.logsnr) / 2
    tau = (now.flow_time + to.flow_time) / 2
    mid = process.time(torch.where(torch.isfinite(half), half, 2 * ((1 - tau) / tau).log()))
    return (torch.where(to.s > 0, mid, now.t),)


def _one(levels: tuple[Levels, ...], eta: float) -> tuple[Tensor, ...]:
    now, to = levels
    return split(now, to, ancestral(now, to, eta))


def _share(levels: tuple[Levels, ...]) -> tuple[Tensor, ...]:
    """Correlation of the noise of a whole step with that of its first part: a Brownian motion in (a/s)^2."""
    now, mid, to = levels
    snr = [(v.a / v.s) ** 2 for v in (now, mid, to)]
    part = torch.where(to.s > 0, (snr[1] - snr[0]) / (snr[2] - snr[0]), 0.0).sqrt()
    return part, (1 - part**2).clamp_min(0).sqrt()


@dataclass(frozen=True)
class DPMppSDE:
    """eta = 0 is the ODE's solver of the same kind."""

    kind: str = "2M"  # '1S', '2S' (two calls), '2M', '3M': order of the integral, single- or multistep
    eta: float = 1.0  # tau^2 of the SDE; 0 an ODE, 1 the reverse SDE
    slope: str = "midpoint"  # of '2M': 'midpoint' (the paper's) or 'heun' (the exact integral of the line)
    s_noise: float = 1.0  # factor on the fresh noise
    faithful: bool = False  # '3M' with half the square term, as released

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of DPM-Solver++ SDE", self.kind, KINDS)
        if self.slope not in ("midpoint", "heun"):
            raise unknown("slope", self.slope, ("midpoint", "heun"))

    @property
    def weak_order(self) -> int:
        return min(KINDS[self.kind], 2)  # '3M' too: earlier x0 carry earlier noise

    @property
    def order(self) -> int:
        return 0 if self.eta else min(KINDS[self.kind], 2)  # '3M' has its first step to thank for that

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"noise": noise, "k": 0, "before": ()}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        if self.kind == "2S":
            return self._twice(denoise, process, x, t, s, memory)
        before = memory["before"]
        times = (t, s, *(time for time, _ in before))
        slope = self.slope if self.kind == "2M" else "heun"
        fresh, old, new, *rest = weights(_multistep, process, x, times, self.eta, slope, self.faithful)
        x0 = denoise(x, t).x0
        y = old * x + new * x0
        for w, (_, told) in zip(rest, before, strict=True):
            y = y + w * told
        y, memory = renew(y, self.s_noise * fresh, memory)
        return y, memory | {"before": ((t, x0), *before)[: KINDS[self.kind] - 1]}

    def _twice(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
               memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        """An ancestral step half way, then the whole step with the x0 that was found there."""
        (m,) = weights(_middle, process, x, (t, s), process)
        m = m.reshape(-1) if isinstance(m, Tensor) else m
        old, data, fresh = weights(_one, process, x, (t, m), self.eta)
        part, rest = weights(_share, process, x, (t, m, s))
        k = memory["k"]
        xi = memory["noise"].draw(k, x) if self.eta else torch.zeros_like(x)
        x0 = denoise(x, t).x0
        there = old * x + data * x0 + self.s_noise * fresh * xi
        old, data, fresh = weights(_one, process, x, (t, s), self.eta)
        if isinstance(m, float) and m == float(t):  # on the way to the data Euler's step
            return old * x + data * x0, memory | {"k": k + 2}
        y = old * x + data * denoise(there, m).x0
        if self.eta:
            y = y + self.s_noise * fresh * (part * xi + rest * memory["noise"].draw(k + 1, x))
        return y, memory | {"k": k + 2}
