"""Evidence for PFGM++: whether its heavy tails make a trained network hold out better than under EDM."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ornstein.core.denoiser import Denoiser
from ornstein.core.loop import sample
from ornstein.core.prediction import Prediction
from ornstein.data.digits import Digits
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._adam import Adam
from ornstein.evidence._laws import energy
from ornstein.evidence.losses.pretraining.denoising import Network
from ornstein.losses.pretraining.denoising import Denoising
from ornstein.processes.pfgmpp import PFGMpp
from ornstein.solvers.heun import Heun

from ..solvers._ground import below

CLAIM = (
    "A network trained under PFGM++ with D = 16 draws digits nearer to held-out ones than one trained under EDM (D = inf) with all "
    "of EDM's settings, at equal calls, when its weights are rounded to 3 bits, when its answers get noise of 0.5, and "
    "with 8 Heun steps in place of 18."
)
METRIC = "energy distance of 300 samples to held-out digits (lower)"


def run(quick: bool = True) -> Evidence:
    """3 seeds of 200 training steps; at length, of 1500."""
    seeds, steps = (3, 200) if quick else (3, 1500)
    held = Digits("test").images().flatten(1)
    found: dict[tuple[str, float], list[float]] = {}
    for D in (16.0, math.inf):
        for seed in range(seeds):
            network = _trained(D, seed, steps)
            tries = {"as it is": (network, 18), "3-bit weights": (_rounded(network, 3), 18),
                     "noisy answers": (Noisy(network, 0.5), 18), "8 steps": (network, 8)}  # fmt: skip
            for name, (used, count) in tries.items():
                x = sample(_denoiser(used, D), (300, 1, 8, 8), Heun(), count, rule="karras", seed=seed)
                found.setdefault((name, D), []).append(energy(x.flatten(1), held))
    rows = [Row(f"D = {D:g}, {name}", "equal-cost" if D == math.inf else "method", METRIC, values,
                f"{15 if name == '8 steps' else 35} NFE") for (name, D), values in found.items()]  # fmt: skip
    half = len(rows) // 2
    won = below(rows[1:half], rows[half + 1 :])
    return Evidence(CLAIM, rows, verdict(all(won), sum(won) > 1), f"Nearer than EDM in {sum(won)} of {len(won)} trials.")


def exact(data: Tensor, process: PFGMpp, x: Tensor, t: Tensor | float) -> Prediction:
    """E[x0 | x] for data [N, ...] under the kernel: weights (1 + |x - d_i|^2 / (sigma^2 D))^(-(N + D) / 2)."""
    L, rows = process.at(t, x), data.flatten(1).double()
    square = torch.cdist(x.flatten(1).double(), rows).square() / torch.as_tensor(L.s).double().reshape(-1, 1) ** 2
    D = process.D
    log_weight = -square / 2 if D == math.inf else -(rows.shape[1] + D) / 2 * torch.log1p(square / D)
    return Prediction(x, L, "x0", (log_weight.softmax(1) @ rows).reshape(x.shape).to(x.dtype))


class Noisy(nn.Module):
    """The network with Gaussian noise on its answers, the same at the same level."""

    def __init__(self, network: nn.Module, std: float) -> None:
        super().__init__()
        self.network, self.std = network, std

    def forward(self, x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        generator = torch.Generator().manual_seed(int(1e4 * (float(t[0]) + 10)))
        answer = self.network(x, t, cond)
        return answer + self.std * torch.randn(answer.shape, generator=generator)


def _denoiser(network: nn.Module, D: float) -> Denoiser:
    return Denoiser(network, PFGMpp(D), "edm", time="edm")


def _trained(D: float, seed: int, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    network, generator, data = Network(), torch.Generator().manual_seed(seed), Digits("train").images()
    denoiser, loss = _denoiser(network, D), Denoising("x0", "edm", time="edm")
    optimiser = Adam(network.parameters(), 2e-3)
    for k in range(steps):
        optimiser.lr = 1e-3 * (1 + math.cos(math.pi * k / steps))
        rows = torch.randint(len(data), (128,), generator=generator)
        optimiser.zero_grad()
        loss(denoiser, {"x0": data[rows]}, generator)["loss"].backward()
        optimiser.step()
    return network.requires_grad_(False)


def _rounded(network: nn.Module, bits: int) -> nn.Module:
    """Matrices rounded to so many bits, one scale a row."""
    network = copy.deepcopy(network)
    for p in network.parameters():
        if p.ndim == 2:
            scale = (p.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp_min(1e-9)
            p.copy_((p / scale).round() * scale)
    return network
