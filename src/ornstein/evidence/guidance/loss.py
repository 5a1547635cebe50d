"""Evidence for loss guidance: a noisy measurement of some coordinates, against the exact posterior of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ornstein.core.denoiser import Denoises, guide
from ornstein.core.loop import Controller, sample
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._laws import energy
from ornstein.guidance.loss import Loss, Recurrence
from ornstein.processes.vp import VP
from ornstein.solvers.dpmpp2m import DPMpp2M
from ornstein.steering.best_of_n import BestOfN
from ornstein.testbeds import Mixture

SEEN, NOISE, STEPS, STD = 3, 0.3, 20, 1.1
CLAIM = ("Given a noisy measurement of three of eight coordinates, the gradient through the network, weakened where x0 is "
         "uncertain, draws nearer to the exact posterior of a mixture than in full strength with as many and three times as many "
         "steps, than the gradient by x0 alone with three times as many, weakened or not, and than the best of 3; and two passes "
         "of each step bring it nearer than twice the steps.")  # fmt: skip
LAW = "energy distance to the exact posterior (lower)"
FIT = "root mean square misfit of the measured coordinates (the noise of the measurement: 0.3)"


def measured(mixture: Mixture, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return mixture.sample(1, seed + 80)[0, :SEEN] + NOISE * torch.randn(SEEN, generator=source, dtype=torch.float64)


def posterior(mixture: Mixture, y: Tensor) -> Mixture:
    """p(x0 | y), again a mixture, for y = the first coordinates + NOISE n."""
    means, var = mixture.means.clone(), mixture.stds.square().clone()
    gap, total = y - means[:, :SEEN], var[:, :SEEN] + NOISE**2
    logits = mixture.weights.log() - 0.5 * (gap**2 / total + total.log()).sum(1)
    means[:, :SEEN] += var[:, :SEEN] / total * gap
    var[:, :SEEN] *= NOISE**2 / total
    return Mixture(means, var.sqrt(), mixture.process, logits.softmax(0))


def misfit(y: Tensor) -> Any:
    """-log p(y | x0) up to a constant, [B]."""
    return lambda x, cond=None: (x[:, :SEEN] - y.to(x)).square().sum(1) / (2 * NOISE**2)


def ways(mixture: Mixture, y: Tensor, quick: bool) -> dict:
    """(kind, name, cost) -> denoiser, steps, controllers."""
    loss = misfit(y)
    def by(*settings: Any, noise: float = NOISE, **more: Any) -> Denoises:
        return guide(mixture, Loss(loss, *settings, std=STD, noise=noise, **more))

    deep, once, both = by(1.0), f"{STEPS} calls, forward and back", f"{2 * STEPS} calls, forward and back"
    found = {("method", "through the network", once): (deep, STEPS, ()),
             ("natural", "in full strength", once): (by(1.0, noise=0.0), STEPS, ()),
             ("equal-cost", "in full strength, 3 times the steps", f"{3 * STEPS} calls, forward and back"):
                 (by(1.0, noise=0.0), 3 * STEPS, ()),
             ("equal-cost", "by x0 alone, 3 times the steps", f"{3 * STEPS} calls"): (by(1.0, "x0"), 3 * STEPS, ()),
             ("equal-cost", "by x0 alone, in full, 3 times the steps", f"{3 * STEPS} calls"):
                 (by(1.0, "x0", noise=0.0), 3 * STEPS, ()),
             ("equal-cost", "best of 3", f"{3 * STEPS} calls"): (mixture, STEPS, (BestOfN(lambda x, cond: -loss(x), 3),)),
             ("method", "recurrence 2", both): (deep, STEPS, (Recurrence(2),)),
             ("equal-cost", "twice the steps", both): (deep, 2 * STEPS, ()),
             ("reference", "by x0 alone", f"{STEPS} calls"): (by(1.0, "x0"), STEPS, ()),
             ("reference", "plain", f"{STEPS} calls"): (mixture, STEPS, ()),
             ("floor", "the exact posterior's denoiser", f"{STEPS} calls"): (posterior(mixture, y), STEPS, ())}  # fmt: skip
    if not quick:
        found |= {("reference", f"strength {w:g}", ""): (by(w), STEPS, ()) for w in (0.5, 2.0)}
        found |= {("reference", f"in full, unit gradient, {w:g}", ""): (by(w, noise=0.0, unit=True), STEPS, ()) for w in (0.3, 1.0)}
        found[("reference", "by x0 alone, in full", "")] = (by(1.0, "x0", noise=0.0), STEPS, ())
        found |= {("reference", f"recurrence {k}", ""): (deep, STEPS, (Recurrence(k),)) for k in (4, 8)}
        found |= {("reference", f"by x0 alone, recurrence {k}", ""): (by(1.0, "x0"), STEPS, (Recurrence(k),)) for k in (2, 4)}
    return found


def draw(denoiser: Denoises, steps: int, controllers: Sequence[Controller], seed: int, count: int) -> Tensor:
    return sample(denoiser, (count, 8), DPMpp2M(), steps, seed=seed, rule="karras", controllers=controllers, dtype=torch.float64)


def run(quick: bool = True) -> Evidence:
    """Five mixtures with a measurement each (ten in full)."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for seed in range(5 if quick else 10):
        mixture = Mixture.random(VP(), 8, 8, 0.6, seed)
        y = measured(mixture, seed)
        real = posterior(mixture, y).sample(1000, seed + 40)
        for key, (denoiser, steps, controllers) in ways(mixture, y, quick).items():
            x = draw(denoiser, steps, controllers, seed, 200 if quick else 500)
            found.setdefault(key, []).append((energy(x, real), (x[:, :SEEN] - y).square().mean().sqrt().item()))
    rows = {name: [Row(name, kind, metric, v, cost) for metric, v in zip((LAW, FIT), zip(*pairs))]
            for (kind, name, cost), pairs in found.items()}  # fmt: skip
    law = {name: pair[0] for name, pair in rows.items()}
    others = [r for r in law.values() if r.kind in ("natural", "equal-cost") and r.name != "twice the steps"]
    deep = all(law["through the network"].mean < r.mean for r in others)
    pairs = list(zip(law["recurrence 2"].values, law["twice the steps"].values))
    again = sum(a < b for a, b in pairs) > 0.7 * len(pairs) and law["recurrence 2"].mean < law["twice the steps"].mean
    return Evidence(CLAIM, [r for pair in rows.values() for r in pair], verdict(deep and again, deep or again),
                    "'partly' asks for either half: the place of the gradient, or recurrence. DPM-Solver++(2M), VP.")  # fmt: skip
