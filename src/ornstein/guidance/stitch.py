"""T-Stitch: a small model for the first, noisy steps and the large one for the rest.

T-Stitch: Accelerating Sampling in Pre-Trained Diffusion Models with Trajectory Stitching, Zizheng Pan, Bohan Zhuang,
De-An Huang, Weili Nie, Zhiding Yu, Chaowei Xiao, Jianfei Cai, Anima Anandkumar, 2024, arXiv:2402.14167. Models
M_1 ... M_K of one latent space and process, each for its share f_k of the way, noisiest first:

    D(x_t) = M_k(x_t) where f_1 + ... + f_{k-1} <= place < f_1 + ... + f_k,

the place being the step over the number of steps. Costs sum_k f_k c_k. The multi-UNet switching of A-SDM (Jinchao Zhu,
Yuxuan Wang, Siyuan Pan, Pengfei Wan, Di Zhang, Gao Huang, 2024, arXiv:2406.00210) is the same with a table of its own,
and so is precision by step: a bf16 or int8 copy of the network as another model. There is nothing to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction

from .layers.mix import mixed

__all__ = ["Stitch"]


@dataclass(frozen=True, eq=False)
class Stitch:
    """The others, then the wrapped denoiser. Any kinds of prediction, and guidance of their own, go together.

    A table counts steps of its own; it and 'steps' need the clock of a sampling loop, 'level' needs none.
    """

    others: Sequence[Denoises] = ()  # noisiest first; over the process of the wrapped one
    shares: Sequence[float] = ()  # of each of the others, of the whole way; the wrapped one has the rest; (): all
    by: str = "steps"  # shares of the steps, or 'level': of 1 - s/(a+s), each row by its own
    table: Sequence[int] | None = None  # instead of shares: who takes each step, 0 the wrapped one, 1 the first other

    def __post_init__(self) -> None:
        shares, table = tuple(self.shares), self.table
        if table is None and shares and (len(shares) != len(self.others) or min(shares) < 0 or sum(shares) > 1 + 1e-9):
            raise OrnsteinError(f"shares {shares} for {len(self.others)} other denoisers",
                                "Give each of the others its share, 0 to 1 in all.")  # fmt: skip
        if table is not None and (shares or not all(k in range(len(self.others) + 1) for k in table)):
            raise OrnsteinError(f"table {tuple(table)} with shares {shares} and {len(self.others)} other denoisers",
                                "Give a table of numbers from 0 to that many, or shares.")  # fmt: skip
        if self.by not in ("steps", "level"):
            raise unknown("way of counting", self.by, ("steps", "level"))

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...] or None, the same for all."""
        everyone = (denoiser, *self.others)
        if self.table is None:
            ends = list(accumulate(self.shares))
            place = (clock.step + 0.5) / clock.steps if self.by == "steps" else 1 - denoiser.process.at(t, x).flow_time
            chosen = [(place >= low) & (place < high) if isinstance(place, Tensor) else low <= place < high
                      for low, high in zip([0.0, *ends], ends)]  # fmt: skip
        elif len(self.table) != clock.steps:
            raise OrnsteinError(f"a table of {len(self.table)} steps in a run of {clock.steps}", "Give one for this run.")
        else:
            chosen = [self.table[clock.step] == k for k in range(1, len(everyone))]
        others = [c.to(x.dtype) if isinstance(c, Tensor) else float(c) for c in chosen]
        return mixed(everyone, [1 - sum(others), *others], x, t, cond, clock)
