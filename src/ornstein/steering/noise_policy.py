"""FIND: a Gaussian of starts for each prompt, learned by policy optimisation so that the reward of fresh samples rises.

FIND: Fine-tuning Initial Noise Distribution with Policy Optimization for Diffusion Models, Changgu Chen, Libing Yang,
Xiaoyan Yang, Lianggangxu Chen, Gaoqi He, Changbo Wang, Yang Li, 2024, arXiv:2407.19453. A whole run of the sampler is one
action z ~ pi = N(mu, diag sigma^2) with the reward R(sampler(z)); pi starts as the prior and follows the clipped gradient

    max E[min(r A, clip(r, 1 - eps, 1 + eps) A)] - beta KL(pi || N(0, I)),   r = pi(z) / pi_old(z),

without a gradient through network or reward. `fit` costs iterations x batch runs of the sampler and rewards for each
prompt; NoisePolicy then costs nothing, at any number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ornstein.core.artefact import Artefact, describe
from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.loop import Controller, Solver, State
from ornstein.core.seam import gather

from .layers.particles import scores
from .layers.search import endings, matching

__all__ = ["NoisePolicy", "Settings", "fit"]

KIND = "noise_policy"


@dataclass(frozen=True)
class Settings:
    """How a policy is trained."""

    iterations: int = 20  # times that the policy is redrawn and improved
    batch: int = 16  # runs of the sampler for each prompt and iteration, 2 or more
    epochs: int = 4  # ascents on each draw
    rate: float = 0.03  # of Adam, in units of the prior's deviation
    clip: float = 0.2  # eps
    pull: float = 0.1  # beta, in deviations of the reward per nat
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2 or self.iterations < 1 or self.epochs < 1:
            raise OrnsteinError(f"batch={self.batch}, iterations={self.iterations}, epochs={self.epochs}: no training",
                                "Draw at least 2 a prompt, and iterate once.")  # fmt: skip


def fit(denoiser: Denoises, shape: tuple[int, ...], solver: Solver, steps: int, reward: Callable[[Tensor, Any], Tensor],
        cond: dict[str, Tensor] | None = None, rule: str = "uniform", settings: Settings = Settings()) -> Artefact:  # fmt: skip
    """The policies of P prompts. shape: of one sample; cond: their conditions, rows [P, ...] (None: one policy for all);
    reward: (x [M, ...], cond of M rows) -> [M], higher is better. settings['history'] has the mean reward of each draw."""
    row = next(iter(cond.values())) if cond else torch.zeros(1)
    prompts, device, each = len(row), row.device, settings.batch
    rows = torch.arange(prompts).repeat_interleave(each)
    told, source = gather(cond, rows, prompts), NoiseSource.of(settings.seed, range(len(rows)))
    mean, log_std = (torch.zeros(prompts, *shape, device=device).requires_grad_() for _ in range(2))
    optimizer, history = torch.optim.Adam([mean, log_std], settings.rate), []
    for k in range(settings.iterations):
        unit = source.draw(k, torch.empty(len(rows), *shape, device=device))
        with torch.no_grad():
            action = mean[rows] + log_std[rows].exp() * unit
        x = endings(denoiser, denoiser.process.prior(action), solver, steps, told, rule, settings.seed + k)
        found = scores(reward, x, told).reshape(prompts, each).float()
        history.append(found.mean().item())
        improve(mean, log_std, action.unflatten(0, (prompts, each)), found, optimizer, settings)
    arrays = {"mean": mean.detach(), "std": log_std.detach().exp()}
    arrays |= {f"cond.{name}": rows.detach().clone() for name, rows in (cond or {}).items()}
    return Artefact(KIND, arrays, {"steps": steps, "rollouts": settings.iterations * each, "history": history},
                    describe(denoiser, rule if isinstance(rule, str) else "", shape))  # fmt: skip


def surrogate(ratio: Tensor, gain: Tensor, clip: float) -> Tensor:
    """The clipped objective of each action: no more is won by leaving 1 - clip to 1 + clip, but a loss there still counts."""
    return torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


@torch.enable_grad()
def improve(mean: Tensor, log_std: Tensor, action: Tensor, reward: Tensor, optimizer: torch.optim.Optimizer,
            settings: Settings) -> None:  # fmt: skip
    """Some ascents on one draw. mean, log_std: [P, ...]; action: [P, n, ...]; reward: [P, n]."""
    others = (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)  # the mean of the rest: not of its own draw
    gain = (reward - others) / reward.std(1, keepdim=True).clamp_min(1e-8)
    size = mean[0].numel() ** 0.5  # so that the clip means as much at every size

    def log_density() -> Tensor:
        gap = (action - mean[:, None]) * (-log_std[:, None]).exp()
        return (-0.5 * gap.square() - log_std[:, None]).flatten(2).sum(2) / size

    before = log_density().detach()
    for _ in range(settings.epochs):
        ratio = (log_density() - before).exp()
        away = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).flatten(1).sum(1) / size
        loss = settings.pull * away.sum() - surrogate(ratio, gain, settings.clip).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@dataclass(frozen=True, eq=False)
class NoisePolicy(Controller):
    """Every sample starts from the policy of its condition, by its own noise. Without a policy it is the plain sampler."""

    policy: Artefact | None = None  # of `fit`

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy.kind != KIND:
            raise OrnsteinError(f"a policy of kind '{self.policy.kind}'", f"Give one of '{KIND}', made by fit.")

    def begin(self, state: State) -> State:
        """The start [B, ...], moved and scaled; State.facts['noise_policy'] says which policy int [B] each row has."""
        if self.policy is None:
            return state
        arrays = self.policy.check(process=state.process, shape=state.x.shape[1:]).arrays
        known = {name.removeprefix("cond."): v for name, v in arrays.items() if name.startswith("cond.")}
        which = matching(state.cond, known).expand(len(state.x))
        mean, std = (arrays[name][which.to(arrays[name].device)].to(state.x) for name in ("mean", "std"))
        x = state.process.prior(mean) + std * state.x
        return replace(state, x=x, facts=state.facts | {KIND: {"which": which}})
