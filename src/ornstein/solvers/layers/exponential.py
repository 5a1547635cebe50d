"""The step that multistep solvers share: an exact linear part and a polynomial through the last answers under its integral.

With sigma = s/a and lambda = -log sigma, the ODE's solution from t to s is, in terms of the noise and of x0,
    x_s = (a_s/a_t) x_t + a_s int_{sigma_t}^{sigma_s} noise d sigma,
    x_s = (s_s/s_t) x_t + s_s int_{lambda_t}^{lambda_s} e^lambda x0 d lambda.
The answer under the integral is replaced by Newton's polynomial, in lambda, t or sigma, through its values at `nodes`. A
node at infinite distance (no signal yet), one that coincides with another, and for polynomials in lambda or for x0 the
step to s = 0, leave the rows concerned with the polynomial of the nodes before it; one node gives DDIM.
"""

# budget: sixteen lines over: the integral, its weights and the step that four solvers are made of, in one place

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from ornstein.core.loop import Evaluate
from ornstein.core.prediction import Prediction
from ornstein.core.process import Process, remembered

__all__ = ["Rule", "advance", "follow", "fresh", "plain"]

# Gauss and Legendre on [0, 1]; 20 points are exact to rounding for steps of up to about 10 in lambda
_ROOTS, _SHARES = (torch.from_numpy(v) for v in leggauss(20))
POINTS, SHARES = (_ROOTS + 1) / 2, _SHARES / 2


class Rule(NamedTuple):
    """What is continued, and how."""

    answer: str = "x0"  # or 'noise'
    variable: str = "lambda"  # of the polynomial: lambda, t or sigma
    pair: str = "exact"  # the slope's weight where there are two nodes; 'bh1', 'bh2': UniPC's shortcuts (lambda only)
    curve: float = 1.0  # share of the second derivative that is kept where there are three nodes (lambda only)


def plain(t: Tensor | float) -> Tensor | float:
    """A time as a number of the host, unless it differs by row or is to be differentiated."""
    return t if isinstance(t, Tensor) and (t.ndim or t.requires_grad) else float(t)


def advance(rule: Rule, process: Process, x: Tensor, said: Prediction, s: Tensor | float,
            nodes: tuple[Tensor | float, ...], answers: Sequence[Tensor]) -> Tensor:  # fmt: skip
    """x [B, ...] at time nodes[0] -> at s. nodes: `plain` times, each a float or [B], the first where x is; answers: said
    there, each [B, ...]; said: the prediction at nodes[0], for rows that have no signal yet."""
    if any(isinstance(t, Tensor) for t in (s, *nodes)):
        scale, base, *weights = _by_row(rule, process, x, s, nodes)
        y = scale * x
        for weight, answer in zip(weights, answers):
            y = y + weight * answer
        return y if rule.answer == "x0" else y + base * said.x0
    scale, base, *weights = _known(process, rule, s, nodes)
    y = x * scale
    for weight, answer in zip(weights, answers):
        if weight:
            y = y.add_(answer, alpha=weight)
    return y.add_(said.x0, alpha=base) if base else y


def fresh() -> dict[str, Any]:
    """The memory that `follow` begins with."""
    return {"times": (), "answers": ()}


def follow(rule: Rule, points: int, denoise: Evaluate, process: Process, x: Tensor, t: Tensor, s: Tensor,
           memory: dict) -> tuple[Tensor, dict]:  # fmt: skip
    """One step of one call through the last `points` answers: the solver's whole step."""
    said = denoise(x, t)
    times, answers = (plain(t), *memory["times"]), (said.get(rule.answer), *memory["answers"])
    x = advance(rule, process, x, said, plain(s), times, answers)
    return x, {"times": times[: points - 1], "answers": answers[: points - 1]}


def _numbers(process: Process, rule: Rule, s: float, nodes: tuple[float, ...]) -> tuple[float, ...]:
    times = torch.tensor([s, *nodes], dtype=torch.float64)
    return tuple(float(w) for w in _weights(rule, process, times))


_known = remembered(_numbers)


def _by_row(rule: Rule, process: Process, x: Tensor, s: Any, nodes: tuple) -> list[Tensor]:
    """The weights with trailing axes, to broadcast over x."""
    times = torch.broadcast_tensors(*(torch.as_tensor(t, dtype=torch.float64, device=x.device) for t in (s, *nodes)))
    found = _weights(rule, process, torch.stack(times, -1))
    return [w.reshape(w.shape + (1,) * (x.ndim - w.ndim)).to(x.dtype) for w in found]


def _weights(rule: Rule, process: Process, times: Tensor) -> list[Tensor]:
    """times [..., 1 + n]: s, then the nodes -> the weight of x, of x0 and of the n answers, each [...]."""
    a, b = process.coefficients(times)[:2]
    sigma, lam = b / a, a.log() - b.log()
    h, noisy = lam[..., 0] - lam[..., 1], rule.answer == "noise"
    blind, done = a[..., 1] <= 0, b[..., 1] <= 0  # no signal yet; nothing left to do
    if noisy:
        scale, mass = a[..., 0] / a[..., 1], a[..., 0] * (sigma[..., 0] - sigma[..., 1])
    else:
        scale, mass = b[..., 0] / b[..., 1], -a[..., 0] * torch.expm1(-h)
    u = {"lambda": lam, "t": times, "sigma": sigma}[rule.variable]
    ended = b[..., 0] <= 0 if rule.variable == "lambda" or not noisy else torch.zeros_like(done)
    u, used = _usable(u[..., 1:], ~(blind | done | ended))
    means = _means(rule, process, sigma[..., :2], lam[..., :2], u)
    if rule.pair != "exact" and len(used) > 1:
        half = h / 2
        if rule.pair == "bh1":  # B(h) = h in place of e^h - 1
            half = half * (h / torch.expm1(h) if noisy else h / -torch.expm1(-h))
        alone = used[1] & ~used[2] if len(used) > 2 else used[1]
        means[1] = torch.where(alone, half, means[1])
    if rule.curve != 1.0 and len(used) > 2:
        straight = (u[..., 0] - u[..., 1]) * means[1]
        means[2] = straight + rule.curve * (means[2] - straight)
    weights = _of_answers(u, used, means)
    still = torch.where(blind & noisy, b[..., 0] / b[..., 1], torch.where(done, torch.ones_like(scale), scale))
    base = torch.where(blind & noisy, a[..., 0], torch.zeros_like(scale))
    mass = torch.where(done | (blind & noisy), torch.zeros_like(mass), mass)
    return [still, base, *(mass * w for w in weights)]


def _usable(u: Tensor, more: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Nodes u [..., n], which of them the polynomial goes through (the first always), and harmless numbers for the rest."""
    used, columns = [torch.ones_like(more)], [torch.where(u[..., 0].isfinite(), u[..., 0], 0.0)]
    for j in range(1, u.shape[-1]):
        apart = (u[..., j, None] != u[..., :j]).all(-1) & u[..., j].isfinite()
        used.append(used[-1] & apart & more)
        columns.append(torch.where(used[-1], u[..., j], 1e3 * j + columns[0]))
    return torch.stack(columns, -1), used


def _means(rule: Rule, process: Process, sigma: Tensor, lam: Tensor, u: Tensor) -> list[Tensor]:
    """The means over the step of Newton's products 1, (u - u0), (u - u0)(u - u1), ..., under the kernel of the integral."""
    if u.shape[-1] == 1:
        return [torch.ones_like(u[..., 0])]
    points, shares = POINTS.to(u), SHARES.to(u)
    # lambda at the points of the rule: evenly in sigma, where the kernel is 1, or evenly in lambda
    even = -(sigma[..., 1:] + points * (sigma[..., :1] - sigma[..., 1:])).log()
    lam = torch.where(lam.isfinite(), lam, 0.0)
    slow = lam[..., 1:] + points * (lam[..., :1] - lam[..., 1:])
    sign = -1 if rule.answer == "noise" else 1
    kernel = (sign * slow - (sign * lam).amax(-1, keepdim=True)).exp()
    if rule.answer == "noise":
        straight = (sigma[..., :1] <= 0) | (rule.variable == "sigma")
        slow, kernel = torch.where(straight, even, slow), torch.where(straight, 1.0, kernel)
    at = {"lambda": slow, "t": None, "sigma": (-slow).exp()}[rule.variable]
    at = process.time(2 * slow) if at is None else at
    shares = shares * kernel / (shares * kernel).sum(-1, keepdim=True)
    means, product = [], torch.ones_like(at)
    for j in range(u.shape[-1]):
        means.append((shares * product).sum(-1))
        product = product * (at - u[..., j, None])
    return means


def _of_answers(u: Tensor, used: list[Tensor], means: list[Tensor]) -> list[Tensor]:
    """From weights of divided differences to weights of values: f[0..k] = sum_j f_j / prod_{i <= k, i != j} (u_j - u_i)."""
    found = [torch.zeros_like(m) for m in means]
    for k, mean in enumerate(means):
        for j in range(k + 1):
            others = [u[..., j] - u[..., i] for i in range(k + 1) if i != j]
            share = mean / torch.stack(others).prod(0) if others else mean
            found[j] = found[j] + torch.where(used[k], share, torch.zeros_like(share))
    return found
