"""Black-Scholes blending: at each step the prompt whose option is cheapest, for pictures of several prompts at once.

Financial Models in Generative Art: Black-Scholes-Inspired Concept Blending in Text-to-Image Diffusion, Divya Kothandaraman, Ming
Lin, Dinesh Manocha, 2024, arXiv:2412.02599. Each condition's spot price P is the similarity of the clean sample predicted
last to it, its strike K the similarity aimed at, tau = steps - step, r = 1/steps:

    d1 = (ln(P/K) + (r + vol^2/2) tau) / (vol sqrt(tau)),   d2 = d1 - vol sqrt(tau),
    C = P N(d1) - K exp(-r tau) N(d2),

N the normal distribution function; the next call is about the condition with the lowest C. C rises with P: with equal
strikes this is the condition of lowest similarity, whatever vol, r and tau are. The authors' program puts the normal
density in N's place, where both terms are equal by an identity of Black and Scholes, so that rounding decides. Costs one
call, and one similarity for each condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ornstein.core import seam
from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError, unknown
from ornstein.core.prediction import Prediction

from .layers.others import check_rows, chosen, one_row

__all__ = ["BlackScholes", "price"]

POLICIES = ("price", "lowest", "alternate", "parts")


def price(spot: Tensor, strike: Tensor | float, rate: float, tau: float, vol: float, density: bool = False) -> Tensor:
    """The call's price, like spot > 0, float64. density: with the normal density for N, which is 0 but for rounding."""
    spot, wide = spot.double(), vol * math.sqrt(tau)
    strike = torch.as_tensor(strike, dtype=torch.float64, device=spot.device)
    d1 = ((spot / strike).log() + (rate + vol**2 / 2) * tau) / wide
    d2 = d1 - wide
    N = (lambda d: (-(d**2) / 2).exp()) if density else torch.special.ndtr
    return spot * N(d1) - strike * math.exp(-rate * tau) * N(d2)


@dataclass(frozen=True, eq=False)
class BlackScholes:
    """One condition for each call, chosen for each sample by itself: the run's own first, or one of the others. Without
    others it does nothing. Outermost: guidance inside is then about the chosen condition. 'alternate' and 'parts' ask on the
    branches 'cond', 'concept1:cond', ...; where samples choose by themselves all is on one branch."""

    similarity: Callable[[Tensor, Any], Tensor] | None = None  # (x0 [B, ...], cond) -> [B] above 0, of at most 100
    others: Sequence[dict[str, Any]] = ()  # further conditions, of one row each, for all samples
    policy: str = "price"  # or 'lowest' similarity; 'alternate', and 'parts': one after the other, know no similarity
    strikes: Sequence[float] = ()  # one for each condition, the run's own first; () = 100 each
    vol: float = 0.5  # volatility; the publication has the root of the scheduler's variance
    faithful: bool = False  # with the density, as released

    def __post_init__(self) -> None:
        check_rows(self.others)
        if self.policy not in POLICIES:
            raise unknown("policy", self.policy, POLICIES)
        if self.others and self.similarity is None and self.policy in POLICIES[:2]:
            raise OrnsteinError(f"the policy '{self.policy}' has no similarity to go by", "Give similarity=..., or 'alternate'.")
        if self.strikes and (len(self.strikes) != 1 + len(self.others) or min(self.strikes) <= 0):
            raise OrnsteinError(f"strikes {tuple(self.strikes)} for {1 + len(self.others)} conditions",
                                "Give each of them one above 0, the run's own first.")  # fmt: skip

    def start(self) -> dict[str, Any]:
        return {"next": None}

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...]."""
        if not self.others:
            return denoiser(x, t, cond, clock)
        if cond is None:
            raise OrnsteinError("there is no condition to blend with the others", "Give cond=...")
        count, which = 1 + len(self.others), torch.zeros(len(x), dtype=torch.long, device=x.device)
        if self.policy in POLICIES[2:]:  # all rows have the same: each condition is a branch, which caches keep apart
            k = clock.step % count if self.policy == "alternate" else clock.step * count // clock.steps
            there = clock.at(f"concept{k}:{clock.branch}") if k else clock
            return denoiser(x, t, chosen(cond, self.others, which + k), there)
        run = seam.current()
        memory = run.memory(self, clock) if run is not None and clock.ids else self.start()
        if memory["next"] is not None:
            which = memory["next"]
        said = denoiser(x, t, chosen(cond, self.others, which), clock)
        memory["next"] = self._cheapest(said.x0, cond, clock)
        return said

    def _cheapest(self, x0: Tensor, cond: Any, clock: Clock) -> Tensor:
        """The condition of each sample for the next call, int [B]; where prices are equal, that of lower similarity."""
        every = [cond] + [one_row(other, len(x0)) for other in self.others]
        spot = torch.stack([self.similarity(x0, one).reshape(len(x0)) for one in every]).double().clamp_min(1e-12)
        if self.policy == "lowest":
            return spot.argmin(0)
        strikes = torch.tensor(self.strikes or [100.0] * len(every), dtype=spot.dtype, device=spot.device)[:, None]
        tau = float(max(clock.steps - clock.step, 1))
        prices = price(spot, strikes, 1 / clock.steps, tau, self.vol, self.faithful)
        if self.faithful:
            return prices.argmin(0)
        equal = prices <= prices.amin(0) + 1e-12
        return torch.where(equal, spot / strikes, math.inf).argmin(0)
