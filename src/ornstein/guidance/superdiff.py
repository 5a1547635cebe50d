"""SuperDiff: several conditions or models in one, weighted by their own densities along the way.

The Superposition of Diffusion Models Using the Ito Density Estimator, Marta Skreta, Lazar Atanackovic, Avishek Joey Bose,
Alexander Tong, Kirill Neklyudov, 2024, arXiv:2412.17762. The score is sum_i k_i S_i, sum_i
k_i = 1. 'or': k = softmax(T log q_i + bias), the mixture's score; 'and': the k that keeps log q_i + bias equal for all. In
y = x/a, v = (s/a)^2, a step from v to v' = v - d under the reverse SDE changes each density by

    log q_i(y') - log q_i(y) = <y' - y, S_i> - d/2 |S_i|^2

(Ito's lemma with the Fokker-Planck equation; no divergence). By Bayes' rule the same is, up to a term common to all i,

    -|y' - m_i|^2 / (2 d p),   m_i = y + d S_i = (v'/v) y + (1 - v'/v) x0_i,   p = 1;

with data of variance c about x0_i the step's exact variance has p = (v' + c)/(v + c), finite where a = 0 too. c = inf is
the published form. The last, noise-driven increment is seen at the next call, so that 'and' makes up for it one step late.
Exact for small steps of a solver with the full ancestral noise (ddim:eta=1, ddpm, euler_ancestral), and for no ODE, whose
densities need divergences. Costs one call for each condition or model, and one tensor of each in the memory of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core import seam
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction
from ornstein.core.process import Levels

from .layers.ahead import Rule, end_of_step
from .layers.contrast import branch
from .layers.others import check_rows, one_row

__all__ = ["SuperDiff", "advance", "equalised"]


def advance(x: Tensor, now: Levels, to: Levels, data_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the step now -> to: the part of x in m_i, the weight of x0_i in it, and 1 / (d p), with x [B, ...] and x/a = y."""
    ratio = (to.s * now.a / (to.a * now.s)) ** 2  # v'/v
    precise = (now.a / now.s) ** 2
    inverse = precise if math.isinf(data_std) else (1 + data_std**2 * precise) / ((to.s / to.a) ** 2 + data_std**2)
    return x * (now.a * (to.s / (to.a * now.s)) ** 2), 1 - ratio, inverse / (1 - ratio)


def equalised(gaps: Tensor, means: Tensor, inverse: Tensor, limit: float) -> Tensor:
    """Weights [M, B] of sum 1 by which the expected step makes gaps [M, B] equal; means [M, B, D]; inverse: 1 / (d p)."""
    apart = (means[1:] - means[:1]).transpose(0, 1)  # u_i = m_i - m_1, [B, M - 1, D]
    gram = apart @ apart.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2)
    wanted = size / 2 - (gaps[1:] - gaps[:1]).T / inverse.clamp_min(1e-30).reshape(-1, 1)
    even = 1 / len(gaps)  # solved for what differs from it, so that models that agree count alike
    ridge = 1e-9 * size.amax(1).clamp_min(1e-30)[:, None, None] * torch.eye(len(gaps) - 1).to(gram)
    rest = torch.linalg.solve(gram + ridge, wanted[..., None] - even * gram.sum(2, keepdim=True))[..., 0]
    beyond = torch.cat([-rest.sum(1, keepdim=True), rest], 1).T
    return even + beyond * (limit / beyond.abs().amax(0).clamp_min(1e-30)).clamp_max(1)


@dataclass(frozen=True, eq=False)
class SuperDiff:
    """The run's condition and denoiser, `others` (conditions) and `models` (denoisers); alone it does nothing. Branches:
    'cond', 'concept1', ..., 'model1', ... Outermost; with classifier-free guidance inside, densities are of its score."""

    others: Sequence[dict[str, Any]] = ()  # further conditions, of one row each, for all samples
    models: Sequence[Denoises] = ()  # further denoisers over the same process, asked with the run's condition
    mode: str = "or"  # 'or': any of them; 'and': where all are equally dense
    bias: Sequence[float] = ()  # nats, one for each (the run's own first): log prior for 'or', lift for 'and'; () = 0
    temperature: float = 1.0  # T of 'or'; 0: equal weights
    data_std: float = math.inf  # sqrt(c), of the data about what is predicted; inf: as published; 0: point masses
    limit: float = 3.0  # of |k_i - 1/M| in 'and', found on mixtures; 0: the mean of scores, inf: as published
    rule: Rule = "uniform"  # the run's own time grid, which 'and' needs; another is refused

    def __post_init__(self) -> None:
        check_rows(self.others)
        if self.mode not in ("or", "and"):
            raise unknown("mode of superposition", self.mode, ("or", "and"))
        if self.bias and len(self.bias) != 1 + len(self.others) + len(self.models):
            raise OrnsteinError(f"{len(self.bias)} biases for {1 + len(self.others) + len(self.models)} conditions and models",
                                "Give one for each, the run's own first.")  # fmt: skip

    def start(self) -> dict[str, Any]:
        return {"log": None, "x0": None, "x": None, "t": None}

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], for 'or' also [B]; cond: dict of tensors [B, ...] or None."""
        said = denoiser(x, t, cond, clock)
        if not self.others and not self.models:
            return said
        every = [said] + [denoiser(x, t, one_row(other, len(x)), branch(clock, f"concept{k}"))
                          for k, other in enumerate(self.others, 1)]  # fmt: skip
        for k, model in enumerate(self.models, 1):
            if model.process != denoiser.process:
                raise OrnsteinError(f"model {k} lives on {model.process}, the first on {denoiser.process}",
                                    "Superpose models of the same process.")  # fmt: skip
            every.append(model(x, t, cond, branch(clock, f"model{k}")))
        x0 = torch.stack([p.x0.double().flatten(1) for p in every])  # [M, B, D]
        log = self._followed(x, x0, said.levels, denoiser, clock)
        bias = torch.tensor(self.bias or [0.0] * len(every), dtype=log.dtype, device=log.device)[:, None]
        if self.mode == "or":
            weights = (self.temperature * log + bias).softmax(0)
        else:
            to = denoiser.process.at(end_of_step(denoiser.process, clock, t, self.rule), x)
            _, share, inverse = advance(x, said.levels, to, self.data_std)
            finite = torch.as_tensor(inverse, dtype=log.dtype).clamp_max(1e30).to(log.device)
            weights = equalised(log + bias, share.to(log) * x0, finite, self.limit)
        value = sum(w.to(x).reshape(-1, *[1] * (x.ndim - 1)) * p.get(said.kind) for w, p in zip(weights, every))
        return said.like(said.kind, value)

    def _followed(self, x: Tensor, x0: Tensor, to: Levels, denoiser: Denoises, clock: Clock) -> Tensor:
        """Log densities [M, B] less the first one's, kept up with the step that led here; 0 where none did."""
        run, log = seam.current(), torch.zeros(x0.shape[:2], dtype=x0.dtype, device=x0.device)
        if run is None or not clock.ids:
            return log
        if clock.evaluation:
            raise OrnsteinError("SuperDiff was asked twice within a step",
                                "Take a solver of one call per step with the full ancestral noise: ddim:eta=1.")  # fmt: skip
        memory = run.memory(self, clock)
        if memory["log"] is None and clock.step and (self.mode == "and" or self.temperature):
            raise OrnsteinError(f"SuperDiff was asked first at step {clock.step}, and does not know the densities there",
                                "Begin at the prior, and list no controller that skips steps or goes back.")  # fmt: skip
        if memory["log"] is not None and len(memory["log"]) == len(x):
            log = memory["log"].T
            before, was = memory["x"], memory["x0"].transpose(0, 1)
            old, share, inverse = advance(before.double(), denoiser.process.at(memory["t"], before), to, self.data_std)
            old, y = old.flatten(1), (x.double() / to.a).flatten(1)
            share, inverse = (torch.as_tensor(v).double().reshape(-1, 1) for v in (share, inverse))
            apart = share * (was - was[:1])  # m_i - m_1
            middle = old + share * (was + was[:1]) / 2
            log = log + inverse[:, 0] * ((y - middle) * apart).sum(2)
        memory.update(log=log.T, x0=x0.transpose(0, 1), x=x, t=to.t if to.t.ndim == 0 else to.t.flatten(1)[:, 0])
        run.record.facts["superdiff"] = {"log": log}
        return log
