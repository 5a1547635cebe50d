"""Evidence for the dimension by the denoiser's Jacobian: circles, spheres and subspaces in more dimensions, against
principal components and the nearest neighbours' estimate on the same data; and the shipped model."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from ornstein import model
from ornstein.evidence import Evidence, Row, verdict
from ornstein.metrics.intrinsic_dimension import IntrinsicDimension
from ornstein.processes.flow import Flow
from ornstein.testbeds import ClosedForm, MoLRG

from ._stimuli import digits

CLAIM = (
    "By the denoiser's Jacobian the mean dimension, over five sets, of a circle and a sphere in 5 dimensions and of "
    "subspaces of dimension 3 in 12 is right to 0.1 at sigma 0.2, as by the flow's; at sigma 0.01, below the spacing of "
    "the data, the denoiser's is wrong by more than 0.5 on the sphere; principal components see the space that bends, "
    "one or more too many on each."
)
TRUE = {"circle": 1, "sphere": 2, "subspaces": 3}


def bed(name: str, seed: int) -> tuple[object, Tensor]:
    """An exact denoiser and 2000 data [N, D]."""
    g = torch.Generator().manual_seed(seed)
    if name == "subspaces":
        exact = MoLRG.random(Flow(), 12, 3, 2, ridge=0.02, seed=seed)
        return exact, exact.sample(2000, seed)
    z = torch.randn(2000, TRUE[name] + 1, generator=g, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64)).Q[: TRUE[name] + 1]
    data = z / z.norm(dim=1, keepdim=True) @ turn
    return ClosedForm(data, Flow()), data


def components(data: Tensor, share: float = 0.95) -> float:
    """Principal components that hold `share` of the variance."""
    values = torch.linalg.eigvalsh(torch.cov(data.T)).flip(0)
    return float((values.cumsum(0) < share * values.sum()).sum() + 1)


def neighbours(data: Tensor, points: int, k: int = 20) -> float:
    """Levina's and Bickel's maximum likelihood estimate, mean of inverses over points (MacKay, Ghahramani)."""
    r = torch.cdist(data[:points], data).sort(1).values[:, 1 : k + 1].log()
    return 1 / (r[:, -1:] - r[:, :-1]).mean().item()


def run(quick: bool = True) -> Evidence:
    """Five data sets of each kind, 12 points each; the digits model at 4 digits."""
    ways = {"denoiser, sigma 0.2": ("method", IntrinsicDimension(0.2, rounds=20)),
            "flow, sigma 0.05 from 0.5": ("method", IntrinsicDimension(0.05, "flow", 0.5, rounds=20)),
            "denoiser, sigma 0.01": ("reference", IntrinsicDimension(0.01, rounds=20))}  # fmt: skip
    rows, found = [], {}
    for shape, true in TRUE.items():
        values = {name: [] for name in (*ways, "principal components, 95%", "20 nearest neighbours")}
        for seed in range(5 if quick else 20):
            exact, data = bed(shape, seed)
            for name, (_, meter) in ways.items():
                values[name].append(meter(exact, data[:12]).value)
            values["principal components, 95%"].append(components(data))
            values["20 nearest neighbours"].append(neighbours(data, 16 if quick else 200))
        kinds = {name: kind for name, (kind, _) in ways.items()}
        rows += [Row(f"{shape}: {name}", kinds.get(name, "natural" if name[0] == "p" else "equal-cost"),
                     f"dimension ({true} is right)", v) for name, v in values.items()]  # fmt: skip
        found[shape] = {name: [w - true for w in v] for name, v in values.items()}
    loaded, (images, labels) = model.load("digits"), digits()
    for sigma in (0.1, 0.5):
        each = IntrinsicDimension(sigma, sigma_from=2.0).per_sample(
            loaded.denoiser, images[:4], loaded.encode(labels[:4].tolist()))  # fmt: skip
        rows.append(Row(f"digits model, sigma {sigma}", "reference", "dimension of 64 (unknown)", each.tolist()))
    right = all(abs(fmean(f["denoiser, sigma 0.2"])) <= 0.1 for f in found.values())
    flow = all(abs(fmean(f["flow, sigma 0.05 from 0.5"])) <= 0.1 for f in found.values())
    blind = max(found["sphere"]["denoiser, sigma 0.01"]) < -0.5
    pca = all(min(f["principal components, 95%"]) >= 1 for f in found.values())
    return Evidence(CLAIM, rows, verdict(right and flow and blind and pca, right))
