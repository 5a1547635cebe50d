"""DPM-Solver-v3: a multistep predictor and corrector in the parametrisation that fits one model best, measured on it.

DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics, Zheng, Lu, Chen, Zhu, 2023, arXiv:2310.13268
(eq. 5 to 11, algorithm 1). With lambda = log(a/s) and f = (s noise - l x)/a, per coordinate and lambda: l = E[s d noise/dx]
on the diagonal, so that f depends least on x; f' = s f + b by least squares over trajectories, f' the derivative along
the ODE. The step takes growth s and drift b out of f exactly, and continues what is left by a polynomial in lambda
(layers/empirical). l = 1, s = b = 0 is DPM-Solver++, l = 0, s = -1, b = 0 DPM-Solver. Costs one network call per step,
and once per model `calibrate`: two Jacobian-vector products per sample and lambda.
"""

# budget: eight lines over, for the solver and the calibration share one definition of l, s and b and belong together.

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.empirical import Style, Table, lean, weights

__all__ = ["DPMSolverV3", "calibrate"]

KIND = "dpmsolver_v3"
WIDEST = math.log(1e3)  # lambda of a process without signal at its prior is cut here


@dataclass(frozen=True)
class DPMSolverV3:
    """Of order points + 1 by the corrector, of order 3 at most. Without statistics: DPM-Solver++ of that many points."""

    statistics: Artefact | str | None = None  # of `calibrate`, or the file it was saved in
    points: int = 2  # answers that the predictor goes through, 1 to 3 (the paper: 2 with a condition, 3 without)
    corrector: bool = True  # goes through one more, the next step's; no call of its own
    pseudo: bool = False  # derivatives by backward differences: steadier at very few steps, of order 2 at most
    half: bool = False  # the slope's weight of DPM-Solver++(2M) instead of the exact integral
    _table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.points not in (1, 2, 3):
            raise OrnsteinError(f"points={self.points} of dpmsolver_v3", "Give 1, 2 or 3.")
        table = Table.constant()
        if self.statistics is not None:
            given = self.statistics
            given = given if isinstance(given, Artefact) else Artefact.load(given, KIND)
            low, high = given.settings["span"]
            table = Table(low, high, *(given.arrays[k].double().cpu() for k in ("less", "s", "b")))
            object.__setattr__(self, "statistics", given)
        object.__setattr__(self, "_table", table)

    @property
    def order(self) -> int:
        return min(self.points + self.corrector, 3 if self.corrector and not self.pseudo else 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"times": (), "answers": (), "x": x}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        times, answers = memory["times"], memory["answers"]
        if not times and self.statistics is not None:
            self.statistics.check(denoise, shape=x.shape[1:])
        answer = -denoise(x, t).x0
        tilt = self._by_row(x, lambda at: (lean(self._table, process, at, x.dtype, x.device),), t)[0]
        if isinstance(tilt, Tensor) or tilt:
            answer = answer - tilt * x
        if times and self.corrector:  # the step before once more, with its end known; the answer stays what it is
            x = self._move(process, memory["x"], t, (times[0], t, *times[1:]), (answers[0], answer, *answers[1:]))
        times, answers = (t, *times)[: self.points], (answer, *answers)[: self.points]
        return self._move(process, x, s, times, answers), {"times": times, "answers": answers, "x": x}

    def _move(self, process: Process, x: Tensor, s: Tensor, times: tuple, answers: tuple) -> Tensor:
        """x [B, ...] at times[0] -> at s."""
        style = Style(self.pseudo, self.half)
        scale, constant, *rest = self._by_row(
            x, lambda s, *nodes: weights(self._table, process, style, s, nodes, x.dtype, x.device), s, *times
        )
        y = x * scale
        for weight, answer in zip(rest, answers):
            y = y + weight * answer
        return y + constant if isinstance(constant, Tensor) or constant else y

    @staticmethod
    def _by_row(x: Tensor, rule: Any, *times: Any) -> tuple:
        """rule(*times) for times of the host, or row by row where a time is one per row [B]; those are read on the host."""
        if all(getattr(t, "ndim", 0) == 0 for t in times):
            return rule(*map(float, times))
        rows = zip(*(torch.as_tensor(t).expand(len(x)).tolist() for t in times))
        found = [rule(*row) for row in rows]
        most, like = max(map(len, found)), torch.ones_like(x[:1])
        filled = [(*f, *[0.0] * (most - len(f))) for f in found]
        return tuple(torch.cat([like * w for w in column]) for column in zip(*filled))


@torch.no_grad()
def calibrate(denoiser: Denoises, data: Tensor, cond: Any = None, *, points: int = 120, batch: int = 64,
              seed: int = 0) -> Artefact:  # fmt: skip
    """The statistics of a denoiser. data: clean samples [K, ...], the model's or real ones; cond: dict of rows [K, ...].

    Each sample is noised to `points` + 1 values of lambda, by the same noise at all of them.
    """
    process, device = denoiser.process, data.device
    a, s, *_ = process.coefficients(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    low, high = (a.log() - s.log()).clamp(-WIDEST, WIDEST).tolist()
    source = NoiseSource.of(seed, range(len(data)))
    noise, probe = source.draw(-1, data), source.draw(0, data).sign()
    less, means, squares = [], [], []
    for lam in torch.linspace(low, high, points + 1, dtype=torch.float64).tolist():
        total = [0.0] * 3
        for rows in torch.arange(len(data), device=device).split(batch):
            some = {k: v[rows] for k, v in cond.items()} if cond else cond
            slope, z = _measure(denoiser, data[rows] + math.exp(-lam) * noise[rows], lam, probe[rows], some)
            parts = slope.sum(0), z.sum(1), torch.einsum("in...,jn...->ij...", z, z)
            total = [t + p / len(data) for t, p in zip(total, parts)]
        less, means, squares = [*less, -total[0]], [*means, total[1]], [*squares, total[2]]
    step = (high - low) / points
    arrays = _fit(torch.stack(less), torch.stack(means), torch.stack(squares), step)
    return Artefact(KIND, arrays, {"span": [low, high], "samples": len(data)}, describe(denoiser, shape=data.shape[1:]))


def _measure(denoiser: Denoises, xbar: Tensor, lam: float, probe: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """The diagonal of d x0/d xbar, by Hutchinson's estimate [B, ...], and (x0, xbar, d x0/d lambda on the ODE) [3, B, ...]."""
    process = denoiser.process

    def said(y: Tensor, at: Tensor) -> Tensor:
        t = process.time(2 * at).clamp(max=process.t_max)
        return denoiser(process.at(t, y).a * y, t, cond).x0

    at = torch.full((len(xbar),), lam, dtype=xbar.dtype, device=xbar.device)
    with sdpa_kernel(SDPBackend.MATH):  # the attention that has a forward derivative
        x0, slope = torch.func.jvp(lambda y: said(y, at), (xbar,), (probe,))
        _, dot = torch.func.jvp(said, (xbar, at), (x0 - xbar, torch.ones_like(at)))
    return (slope * probe).double(), torch.stack([x0, xbar, dot]).double()


def _fit(less: Tensor, mean: Tensor, square: Tensor, step: float) -> dict[str, Tensor]:
    """l - 1 [N + 1, ...], and moments of (x0, xbar, d x0) [N + 1, 3, ...], [N + 1, 3, 3, ...] -> l - 1, s and b.

    f = -x0 - (l-1) xbar, f' = (l-1) (xbar - x0) - (l-1)' xbar - x0'. A coordinate that hardly varies has s near 0.
    """
    one, zero, turn = torch.ones_like(less), torch.zeros_like(less), torch.gradient(less, spacing=step, dim=0)[0]
    f, df = torch.stack([-one, -less, zero], 1), torch.stack([-less, less - turn, -one], 1)
    spread = square - mean[:, :, None] * mean[:, None]
    among = [torch.einsum("ni...,nij...,nj...->n...", f, spread, g) for g in (f, df)]
    floor = (1e-4 * among[0] + 1e-8 * square[:, 0, 0]).flatten(1).mean(1)
    s = among[1] / (among[0] + floor.reshape(-1, *[1] * (less.ndim - 1)))
    b = (df * mean).sum(1) - s * (f * mean).sum(1)
    return {"less": less, "s": s, "b": b}
