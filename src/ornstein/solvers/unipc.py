"""UniPC: a multistep predictor in log-SNR, and a corrector that needs no call of its own.

UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models, Zhao, Bai, Rao, Zhou, Lu, 2023,
arXiv:2302.04867 (algorithms 5 to 8). With r_m = (lambda_m - lambda_t)/h and D_m = f_m - f_t, both halves are
x_s = (s_s/s_t) x_t - a_s (e^-h - 1) f_t + a_s B(h) sum_m rho_m D_m / r_m, f = x0 (or the noise, with a and s in each
other's place), where rho solves R rho = b, that is, the polynomial in lambda through all f is integrated exactly; where
there is one D, rho = 1/2 and B(h) = h ('bh1') or e^h - 1 ('bh2') decides. UniP-p goes through f_t and p - 1 answers
before; UniC-p through f_s as well, said at the predicted x_s, which is the call of the next step. Costs one network
call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.exponential import Rule, advance, plain

__all__ = ["UniPC"]


@dataclass(frozen=True)
class UniPC:
    """Of order points + 1 by the corrector, of order 3 at most from a start with one answer."""

    points: int = 2  # p of UniPC-p, 1 to 3: answers that the predictor goes through; the paper has 2 under guidance
    variant: str = "bh2"  # B(h): 'bh1' (the paper: better without guidance) or 'bh2'
    predicts: str = "x0"  # the answer that is continued: 'x0' (the paper: for guidance) or 'noise'
    corrector: bool = True  # without it, UniP alone

    def __post_init__(self) -> None:
        if self.variant not in ("bh1", "bh2"):
            raise unknown("variant of UniPC", self.variant, ("bh1", "bh2"))
        if self.predicts not in ("x0", "noise"):
            raise unknown("answer of UniPC", self.predicts, ("x0", "noise"))
        if self.points not in (1, 2, 3):
            raise OrnsteinError(f"points={self.points} of UniPC", "Give 1, 2 or 3.")

    @property
    def order(self) -> int:
        return min(self.points + 1, 3) if self.corrector else min(self.points, 2)

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"times": (), "answers": (), "x": x}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        rule, t, said = Rule(self.predicts, "lambda", self.variant), plain(t), denoise(x, t)
        answer, times, answers = said.get(self.predicts), memory["times"], memory["answers"]
        if times and self.corrector:  # the step before once more, with its end known
            x = advance(rule, process, memory["x"], said.like("x0", memory["x0"]), t, (times[0], t, *times[1:]),
                        (answers[0], answer, *answers[1:]))  # fmt: skip
        times, answers = (t, *times)[: self.points], (answer, *answers)[: self.points]
        there = advance(rule, process, x, said, plain(s), times, answers)
        return there, {"times": times, "answers": answers, "x": x, "x0": said.x0}
