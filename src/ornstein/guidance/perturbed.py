"""Perturbed guidance: away from what the same network says with part of it broken (PAG, SEG, STG / skip-layer guidance).

Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance, Donghoon Ahn, Hyoungwon Cho, Jaewon Min, Wooseok
Jang, Jungwoo Kim, SeonHwa Kim, Hyun Hee Park, Kyong Hwan Jin, Seungryong Kim, 2024, arXiv:2403.17377 (eq. 13):

    eps~(x) = eps(x) + s (eps(x) - eps^(x)),   in eps^ the self-attention maps of chosen blocks are the identity: out = V.

Smoothed Energy Guidance, Susung Hong, 2024, arXiv:2408.00760: in eps^ the queries are blurred by a Gaussian of the
token grid, with sigma -> inf all are their mean. Spatiotemporal Skip Guidance, Junha Hyung et al., 2024,
arXiv:2411.18664, known for images as skip-layer guidance: in eps^ whole blocks are left out.

No label and no second network is needed. Costs two network calls inside the interval, the worse one no dearer than the
other, and one outside. On the branch 'cond' only: under CFG it is one call more, and CFG's scale multiplies the strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ornstein.core.clock import Clock
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.prediction import Prediction
from ornstein.core.seam import Run, attach, current, running

from .layers.contrast import ALWAYS, branch, check_interval, contrast, own
from .layers.perturb import Asking, Perturb

__all__ = ["Perturbed"]


@dataclass(frozen=True)
class Perturbed:
    """said + strength (said - worse). Branches on the clock: 'cond' as it came, and 'perturbed'.

    A denoiser with a `backbone` (also under other guidance) gets the plugin for each worse call, and is left as it was.
    In the loop of a pipeline, where guidance cannot see the network, attach `rule.plugin` beside it.
    """

    strength: float = 0.0  # the publications' s, 0 = off; how much is right differs by network
    perturb: str = "identity"  # 'identity' (PAG), 'blur' (SEG), 'skip' (STG, skip-layer guidance)
    blocks: tuple[int, ...] = ()  # places among all blocks (stages of a U-Net), 0 first; (): the middle one
    interval: tuple[float, float] = ALWAYS  # flow times s/(a+s) = sigma/(1+sigma), (low, high]: 0 data, 1 noise
    sigma: float = math.inf  # of 'blur', in tokens; inf is its publication's choice
    plugin: Perturb = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_interval(self.interval)
        blocks = (self.blocks,) if isinstance(self.blocks, int) else tuple(self.blocks)
        object.__setattr__(self, "plugin", Perturb(self.perturb, blocks, self.sigma))

    def start(self) -> dict[str, bool]:
        return {"known": False}

    def predict(self, denoiser: Denoises, x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
        """x: [B, ...]; t: [], [B] or leading axes; cond: dict of tensors [B, ...] or None."""
        said = denoiser(x, t, cond, clock)
        if self.strength == 0 or not own(clock):
            return said
        return contrast(said, self._worse(denoiser), 1 + self.strength, self.interval, t, cond, clock)

    def _worse(self, denoiser: Denoises) -> Callable[..., Prediction]:
        network = _network(denoiser)

        def ask(x: Tensor, t: Any, cond: Any, clock: Clock) -> Prediction:
            there = branch(clock, "perturbed")
            with ExitStack() as stack:
                run = current() or stack.enter_context(running(Run()))
                if network is not None:
                    stack.callback(attach(network, self.plugin, scope=run.scope))
                asking = stack.enter_context(Asking(self.plugin))
                worse = denoiser(x, t, cond, there)
            memory = run.memory(self, there)  # later calls may be answered from a cache of this branch
            if not asking.acted and not memory["known"]:
                raise OrnsteinError(f"nothing was perturbed by '{self.perturb}': no place of it was computed",
                                    "Attach rule.plugin to the network where it is not the denoiser's own; leave out what "
                                    "answers for these blocks.")  # fmt: skip
            memory["known"] = True
            return worse

        return ask


def _network(denoiser: Any) -> nn.Module | None:
    """The module at the bottom of a guided denoiser, or None."""
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    found = getattr(denoiser, "backbone", None)
    found = getattr(found, "model", found)  # a bridged network holds the foreign module
    return found if isinstance(found, nn.Module) else None
