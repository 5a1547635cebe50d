"""Evidence for JiT: on a field whose exact answer is known for any set of tokens, and on the digits DiT."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.seam import Run, attach
from ornstein.core.sites import Seat
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence.acceleration import _ground, _tokens

TRIAL = ("densities=(1,1)", "ends=(0.2,0.4),densities=(0.5,0.75)", ("dit",))  # never sparse, sparse, the fitting backbones
CLAIM = ("Setting new tokens at y* does less harm than going a third of the way as released, and the field that comes out is "
         "nearer in law than with fewer full steps at equal token cost.")  # fmt: skip
METRIC, TOKENS, STEPS = "squared Wasserstein distance to the field's law (lower)", 64, 18


def covariance(apart: Tensor) -> Tensor:
    return 0.95 * (-((apart / 6) ** 2)).exp() + 0.05 * (apart == 0)


class Field(nn.Module):
    """E[x0 at these tokens | their noisy values] for a Gaussian field on a line: exact for any set of tokens."""

    seat: ClassVar[Seat] = Seat("block", "block", ("x",))

    def forward(self, x: Tensor, t: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        place, clean = rotary[0].flatten(-2).flatten(1) if rotary[0].ndim > 2 else rotary[0].mT, 1 - t[:, None, None]
        known = covariance(place[:, :, None] - place[:, None])
        noisy = clean**2 * known + t[:, None, None] ** 2 * torch.eye(x.shape[1])
        return clean * known @ torch.cholesky_solve(x, torch.linalg.cholesky(noisy))


class Line(nn.Module):
    """x [B, 1, 1, N] -> E[x0 | x_t]: a network of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Field()])

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        place = torch.arange(float(x.shape[3]))[:, None]
        return self.blocks[0](x.flatten(1)[..., None], t, (place, place)).mT[:, :, None]


class Velocity(Line):
    """The same, saying the velocity."""

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        place = torch.arange(float(x.shape[3]))[:, None]
        tokens = x.flatten(1)[..., None]
        clean = self.blocks[0](tokens, t, (place, place))
        return ((tokens - clean) / t[:, None, None]).mT[:, :, None]


def distance(x: Tensor) -> float:
    """Between Gaussians of these samples' covariance [n, N] and of the field's."""
    place = torch.arange(float(TOKENS))
    truth, mine = covariance(place[:, None] - place).double(), x.double().mT @ x.double() / len(x)
    values, vectors = torch.linalg.eigh(truth)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    return float(truth.trace() + mine.trace() - 2 * torch.linalg.eigvalsh(root @ mine @ root).clamp_min(0).sqrt().sum())


def field(plugin: str, seed: int, samples: int, steps: int = STEPS) -> tuple[float, float]:
    """Distance in law, and the cost in evaluations of all tokens."""
    net, run = Velocity(), Run()
    detach = attach(net, catalog.build("acceleration", plugin)) if plugin else (lambda: None)
    x = sample(Denoiser(net, catalog.build("processes", "flow")), (samples, 1, 1, TOKENS), catalog.build("solvers", "ddim"), steps,
               seed=seed, run=run)  # fmt: skip
    detach()
    return distance(x.flatten(1)), sum(run.record.computed_at[k] for k in run.record.asked_at if k.endswith("/block")) or steps


def run(quick: bool = True) -> Evidence:
    seeds, samples, rows = range(3 if quick else 5), 256 if quick else 1024, []
    cost = field("jit", 0, 8)[1]
    few = -int(-cost // 1)
    lines = (("jit", "method", "jit", STEPS), ("jit:faithful=True", "reference", "jit:faithful=True", STEPS),
             (f"{few} full steps", "equal-cost", "", few), (f"{STEPS} full steps", "reference", "", STEPS))  # fmt: skip
    for name, kind, plugin, steps in lines:
        values = [field(plugin, seed, samples, steps)[0] for seed in seeds]
        rows.append(Row(f"field, {name}", kind, METRIC, values, f"{cost if plugin else steps:.1f} evaluations of all tokens"))
    place = torch.arange(float(TOKENS))
    root = torch.linalg.cholesky(covariance(place[:, None] - place))
    exact = [distance(torch.randn(samples, TOKENS, generator=torch.Generator().manual_seed(s)) @ root.mT) for s in seeds]
    rows.append(Row("field, its own samples", "floor", METRIC, exact))
    gentle = "jit:ends=(0.2,),densities=(0.5,)"
    digits = _ground.compare("dit", [gentle] if quick else [gentle, "jit"])
    published = _tokens.beside(gentle + ",faithful=True")
    lifts = _tokens.nearer(rows[0], rows[1]) and _tokens.nearer(digits[gentle][0], published)
    steps = _tokens.nearer(rows[0], rows[2]) and all(_ground.better(r, "ddim") for r in digits.values())
    return Evidence(CLAIM, [*rows, *sum(digits.values(), []), published, *_tokens.seconds(["jit"])],
                    verdict(lifts and steps, lifts), _ground.model("dit")[1])  # fmt: skip
