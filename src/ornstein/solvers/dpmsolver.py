"""DPM-Solver: singlestep exponential integrators of the noise in log-SNR, of orders 1, 2 and 3, and 'fast' for any calls.

DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps, Lu, Zhou, Bao, Chen, Li, Zhu,
2022, arXiv:2206.00927 (algorithms 1 and 2, section 3.4). With lambda = log(a/s), h = lambda_s - lambda_t, e_t the noise at
x_t: u = (a_r/a_t) x - s_r (e^{rh} - 1) e_t at lambda_t + r h, r = 1/2, and
x_s = (a_s/a_t) x - s_s (e^h - 1) (e_t + (e(u) - e_t)/(2r)); order 3 has two nodes, at 1/3 and 2/3
(layers/singlestep_exponential.py). Costs `order` network calls per step, one for a step from pure noise or to the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ornstein.core.clock import NoiseSource
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Evaluate
from ornstein.core.process import Process

from .layers.singlestep import advance, ddim
from .layers.singlestep_exponential import ExponentialRule, check

__all__ = ["DPMSolver", "fast"]


def fast(process: Process, nfe: int) -> tuple[int, ...]:
    """The orders of the steps from t_max to the data that make `nfe` calls in all: as many of order 3 as go.

    The paper's, n = nfe // 3: (3 * (n-1), 2, 1), (3 * n, 1) or (3 * n, 2). The step to the data has order 1 here, so the
    last is (3 * (n-1), 2, 2, 1); and from pure noise, without any signal, the first step has order 1 too.
    """
    if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 1:
        raise OrnsteinError(f"nfe={nfe!r} is not a positive whole number", "Ask for at least 1 call.")
    head = (1,) if nfe > 1 and float(process.at(process.t_max, None).a) == 0 else ()
    n, rest = divmod(nfe - len(head), 3)
    if rest == 1:
        return (*head, *(3,) * n, 1)
    if n == 0:  # two calls
        return (*head, 1, 1)
    return (*head, *(3,) * (n - 1), 2, *(2,) * (rest == 2), 1)


@dataclass(frozen=True)
class DPMSolver:
    """Of the given order, in log-SNR; with `nfe` the order changes from step to step, and the memory counts them."""

    order: int = 3  # 1 (is DDIM), 2 or 3
    form: str = "paper"  # 'taylor': derivatives of the full Taylor step; 'midpoint': order 3 with its inner node by order 2
    nfe: int = 0  # > 0: 'fast', so many calls in exactly `steps(process)` steps from t_max to the data

    def __post_init__(self) -> None:
        check("dpmsolver", self.order, self.form)
        if self.nfe < 0:
            raise OrnsteinError(f"nfe={self.nfe} of dpmsolver is negative", "Give the number of calls, or 0.")

    def steps(self, process: Process) -> int:
        """How many steps 'fast' takes for its calls."""
        return len(fast(process, self.nfe))

    def start(self, x: Tensor, noise: NoiseSource) -> int | None:
        return 0 if self.nfe else None

    def step(self, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
             memory: int | None) -> tuple[Tensor, int | None]:  # fmt: skip
        order = self._order(process, s, memory) if self.nfe else self.order
        x = advance(denoise, process, x, t, s, ExponentialRule("noise", order, self.form), "noise", ddim)
        return x, memory + 1 if self.nfe else None

    def _order(self, process: Process, s: Tensor, taken: int) -> int:
        orders = fast(process, self.nfe)
        if taken >= len(orders) or (getattr(s, "ndim", 0) == 0 and float(s) == 0 and taken < len(orders) - 1):
            what = f"dpmsolver with nfe={self.nfe} is at step {taken + 1} of {len(orders)}, and the time grid is not"
            raise OrnsteinError(what, f"Sample with steps={len(orders)}, without rewinding.")
        return orders[taken]
