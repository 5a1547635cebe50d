"""Likelihood: the exact log-density of data under a denoiser, along the probability flow.

Score-Based Generative Modeling through Stochastic Differential Equations, Yang Song, Jascha Sohl-Dickstein, Diederik P.
Kingma, Abhishek Kumar, Stefano Ermon, Ben Poole, 2020, arXiv:2011.13456 (section 4.3, appendix D.2):

    log p_0(x_0) = log p_T(x_T) + int_0^T div v(x_t, t) dt,   dx/dt = v,   div v by Hutchinson: E v^T J v

Every Gaussian process is the linear flow in z = x/(a+s), tau = s/(a+s), dz/dtau = noise - x_0, and is solved there, from
s(t_min) up, in a coordinate that is fine near the data, by Dormand's and Prince's pair of order 5(4) with a step of its
own for every sample. What is measured is the density of the data blurred by noise of the smallest level. The prior is
N(0, s^2) at t_max, exact where a(t_max) = 0. Cost: 6 evaluations a step, each D rows up to `exact` dimensions and
`probes` rows above, with a forward derivative; about 10 to 30 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ornstein.core.clock import NoiseSource
from ornstein.core.denoiser import Denoises
from ornstein.core.errors import OrnsteinError
from ornstein.core.seam import gather

from .layers.jacobian import check_data, divergence, probes
from .layers.measure import Measure, bootstrap

__all__ = ["Likelihood"]

FINE = 0.03  # tau = FINE sinh(u): where steps turn from even in tau to even in log tau
NODES = ((), (1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9),
         (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
         (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
         (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84))  # fmt: skip
ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class Likelihood:
    """Negative log2-density per dimension. Called as metric(denoiser, x, cond, ids) -> Measure, lower is better."""

    of: ClassVar[str] = "denoiser"
    tolerance: float = 1e-5  # of a step's error, absolute and relative (Song et al.)
    exact: int = 32  # dimensions up to which the trace is exact
    probes: int = 1  # random vectors above, the same ones along the whole path
    kind: str = "rademacher"  # or 'gaussian': the vectors
    bin: float = 0.0  # width of a grey level in x (2/255): discrete data, made even by uniform noise; 0: a density
    steps: int = 1000  # at most, of one sample
    rounds: int = 1000  # bootstrap resamples behind the interval
    seed: int = 0  # of probes, uniform noise and bootstrap

    def __post_init__(self) -> None:
        if self.kind not in ("rademacher", "gaussian") or self.probes < 1 or not self.tolerance > 0 or self.bin < 0:
            raise OrnsteinError(f"likelihood has kind={self.kind}, probes={self.probes}, tolerance={self.tolerance}, "
                                f"bin={self.bin}", "Give 'rademacher' or 'gaussian', 1 probe or more, a tolerance above "
                                "0, and 0 or the width of a grey level.")  # fmt: skip

    def __call__(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Measure:
        """x: data [N, ...]; cond: N rows; ids: what the random numbers are keyed by."""
        bits = -self.per_sample(denoiser, x, cond, ids) / (x[0].numel() * math.log(2))
        bits = bits - (math.log2(self.bin) if self.bin else 0.0)
        low, high = bootstrap(bits, self.rounds, self.seed)
        return Measure(bits.mean().item(), low, high, len(x), "likelihood", "bits per dimension", "lower")

    def per_sample(self, denoiser: Denoises, x: Tensor, cond: Any = None, ids: Sequence[int] | None = None) -> Tensor:
        """log-density in nats [N], float64, of x as it is in the data (of x plus uniform noise with `bin`)."""
        ids, process, dims = check_data(x, ids=ids), denoiser.process, x[0].numel()
        if self.bin:
            u = NoiseSource.of(self.seed, ids).uniform(0, x.shape[1:], x.device).to(x.dtype)
            x = x + self.bin * (u - 0.5)
        vectors = None
        if dims > self.exact:
            vectors = probes(x, self.probes, self.seed, ids, 1)
            if self.kind == "gaussian":
                vectors = torch.stack([NoiseSource.of(self.seed, ids).draw(k + 1, x) for k in range(self.probes)])
        low, high = (process.at(t, x) for t in (process.t_min, process.t_max))
        ends = [math.asinh(float(L.flow_time) / FINE) for L in (low, high)]
        z = float(low.a / (low.a + low.s)) * x
        z, gain = self._solve(_slope(denoiser, cond, vectors, len(x)), z, *ends)
        tau = float(high.flow_time)
        prior = -0.5 * (z.double() / tau).square().flatten(1).sum(1) - dims * (0.5 * math.log(2 * math.pi) + math.log(tau))
        return (prior + gain + dims * math.log(float(low.a / (low.a + low.s)))).detach()

    def _solve(self, slope: Callable, z: Tensor, u: float, end: float) -> tuple[Tensor, Tensor]:
        """Along the flow from u to end: z and the integral of the divergence [N], each row with steps of its own."""
        n, wide = len(z), (-1, *[1] * (z.ndim - 1))
        place, gain = (torch.full((n,), v, dtype=torch.float64, device=z.device) for v in (u, 0.0))
        size, rows = torch.full_like(place, (end - u) / 20), torch.arange(n, device=z.device)
        first = slope(z, place, rows)  # the last slope of a step is the first of the next
        for _ in range(self.steps):
            h = torch.minimum(size[rows], end - place[rows])
            ks = [(first[0][rows], first[1][rows])]
            for node in NODES[1:]:
                move = sum(w * k for w, (k, _) in zip(node, ks))
                ks.append(slope(z[rows] + h.view(wide).to(z) * move, place[rows] + sum(node) * h, rows))
            new, more = (sum(w * k[i] for w, k in zip(NODES[-1], ks)) for i in (0, 1))
            off, rest = (sum(w * k[i] for w, k in zip(ERROR, ks)) for i in (0, 1))
            new, off = z[rows] + h.view(wide).to(z) * new, h.view(wide).to(z) * off
            scale = self.tolerance * (1 + torch.maximum(new.abs(), z[rows].abs()))
            error = (off / scale).double().square().flatten(1).mean(1).sqrt()
            error = torch.maximum(error, (h * rest).abs() / (self.tolerance * (z[0].numel() + gain[rows].abs())))
            good = error <= 1
            done = rows[good]
            z = z.index_copy(0, done, new[good])
            first = tuple(f.index_copy(0, done, k[good]) for f, k in zip(first, ks[-1]))
            gain[done] += (h * more)[good]
            place[done] += h[good]
            size[rows] = h * (0.9 * error.clamp_min(1e-8) ** -0.2).clamp(0.2, 5.0)
            rows = rows[place[rows] < end - 1e-12]
            if not len(rows):
                return z, gain
        what = f"{len(rows)} of {n} samples did not reach the prior within {self.steps} steps"
        raise OrnsteinError(what, "Give more steps or a larger tolerance, or compute in float64.")


def _slope(denoiser: Denoises, cond: Any, vectors: Tensor | None, batch: int) -> Callable:
    """(z, u, rows) -> dz/du and its divergence [M] in float64."""
    process = denoiser.process

    def slope(z: Tensor, u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        tau = (FINE * u.sinh()).clamp(max=1.0)
        t = process.time(2 * ((1 - tau).log() - tau.log())).clamp(process.t_min, process.t_max)

        def field(z: Tensor, part: Tensor) -> Tensor:
            L = process.at(t[part], z)
            with sdpa_kernel(SDPBackend.MATH):
                said = denoiser((L.a + L.s) * z, t[part], gather(cond, rows[part], batch))
            return said.noise - said.x0

        value, div = divergence(field, z, None if vectors is None else vectors[:, rows])
        speed = FINE * u.cosh()
        return speed.view(-1, *[1] * (z.ndim - 1)).to(z) * value.detach(), speed * div.detach().double()

    return slope
