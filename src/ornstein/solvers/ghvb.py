"""GHVB: Adams-Bashforth on the noise with heavy-ball momentum, which widens the region of stability at few steps.

Diffusion Sampling with Momentum for Mitigating Divergence Artifacts, Wizadwongsa, Chinchuthakun, Khungurn, Raj,
Suwajanakorn, 2023, arXiv:2307.11118 (eq. 9, 10 and table 1). In xbar = x/a and sigma = s/a: v <- (1 - beta) v + beta e,
xbar <- xbar + (sigma_s - sigma_t) u with u = (1/beta) sum_j c_j v_j, which is u_n = (1 - beta) u_before + sum_j c_j e_j
with c the Adams-Bashforth weights of the step ahead less (1 - beta) times those of the step before. HB: v <- (1 - beta)
v + beta AB(e), u = v; Nesterov: u = (1 - beta) v + beta AB(e). beta = 1 is PLMS. Costs one network call per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.loop import Evaluate
from ornstein.core.process import Levels, Process

from .layers.adams import adams, blank, blend, constant, transfer

__all__ = ["GHVB"]


@dataclass(frozen=True)
class GHVB:
    """Remembers u [B, ...] and the last terms - 1 noises [B, ...] with their flow times, one per row."""

    terms: int = 4  # noises in the formula, 1 to 5; the publication calls terms - 1 + beta the order
    beta: float = 0.8  # damping in (0, 1]: smaller is more stable and less accurate; 1 has no momentum
    momentum: str = "ghvb"  # 'ghvb', 'hb' (heavy ball on the slope itself) or 'nesterov'; the last two are of order 1
    faithful: bool = False  # True: coefficients of equal steps on any grid, and the publication's start

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 5:
            raise OrnsteinError(f"terms={self.terms} of GHVB", "Take 1 to 5.")
        if not 0 < self.beta <= 1:
            raise OrnsteinError(f"beta={self.beta} of GHVB is not in (0, 1]", "Take 1 for no momentum.")
        if self.momentum not in ("ghvb", "hb", "nesterov"):
            raise unknown("momentum", self.momentum, ("ghvb", "hb", "nesterov"))

    @property
    def order(self) -> int:
        """Of the global error on any grid: the first step is DDIM's, so that more than 2 is not reached."""
        plain = self.momentum == "ghvb" or self.beta == 1
        return min(self.terms, 2) if plain and not self.faithful else 1

    def start(self, x: Tensor, noise: NoiseSource) -> dict[str, Any]:
        return {"past": (), "u": None}

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
        now, to = process.at(t, x), process.at(s, x)
        said = denoise(x, t)
        if blank(now):
            return transfer(said, to), memory
        noise = said.noise
        if self.faithful and self.momentum == "ghvb" and memory["u"] is not None:
            noise = blend([1 - self.beta, self.beta], [memory["u"], noise])  # v, and the formula is of the last v
        known = ((noise, now.flow_time), *memory["past"])
        if memory["u"] is None:
            mean, kept = noise, noise
        else:
            ahead, behind = self._weights(known, to)
            mean, kept = self._momentum([e for e, _ in known], memory["u"], ahead, behind)
        return transfer(said, to, (1.0,), (mean,)), {"past": known[: self.terms - 1], "u": kept}

    def _weights(self, known: tuple, to: Levels) -> tuple:
        """Adams weights of the noises that are known over the step ahead and over the step before it."""
        if len(known) == 1 or self.faithful:
            return constant(len(known)), constant(len(known), ago=1)
        return adams([tau for _, tau in known], to.flow_time)

    def _momentum(self, noises: list, u: Tensor, ahead: list, behind: list) -> tuple[Tensor, Tensor]:
        """The mean noise of this step, and what is remembered of it: the same, or v."""
        rest = 1 - self.beta
        if self.momentum == "ghvb":
            both = [a - rest * b for a, b in zip(ahead, behind)]
            if self.faithful:
                return blend([c / self.beta for c in both], noises), noises[0]
            u = blend([rest, *both], [u, *noises])  # what the step before got wrong, as seen now, is gone on with
            return u, u
        v = blend([rest, *(self.beta * a for a in ahead)], [u, *noises])
        return (v, v) if self.momentum == "hb" else (blend([rest, *(self.beta * a for a in ahead)], [v, *noises]), v)
