"""The common ground of the backbones' evidence: short trainings on the digits, and an MLP of as many weights beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core import catalog
from ornstein.evidence import Evidence, Row, verdict
from ornstein.evidence._adam import Adam
from ornstein.evidence._flops import Flops

METRIC = "flow-matching loss on held-out digits (lower)"


class Flat(nn.Module):
    """The baseline: pixels, time features and label into one vector, three hidden layers, pixels out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time, self.label = nn.Linear(32, width), nn.Embedding(11, width)
        self.into, self.out = nn.Linear(64, width), nn.Linear(width, 64)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        angle = t[:, None] * torch.arange(1, 17) * 1.5
        c = self.time(torch.cat([angle.cos(), angle.sin()], 1)) + self.label(cond["label"])
        h = self.into(x.flatten(1))
        for layer in self.layers:
            h = h + layer(F.silu(h + c))
        return self.out(F.silu(h)).reshape(x.shape)


def train(net: nn.Module, steps: int, batch: int = 64, seed: int = 0) -> list[float]:
    """Flow matching on the digits, as a plain loop: x_t = (1 - t) x0 + t n, target n - x0. The losses [steps]."""
    data, source = catalog.build("data", "digits"), torch.Generator().manual_seed(seed)
    images, labels = data.images(), data.labels
    init(net, source)
    chooser, losses = Adam(net.parameters(), 2e-3, decay=0.01), []
    with torch.enable_grad():
        for step in range(steps):
            chooser.lr = 2e-3 * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
            rows = torch.randint(len(images), (batch,), generator=source)
            t = torch.randn(batch, generator=source).sigmoid()
            n, w = torch.randn(batch, 1, 8, 8, generator=source), t[:, None, None, None]
            said = net((1 - w) * images[rows] + w * n, t, {"label": labels[rows]})
            loss = (said - (n - images[rows])).square().mean()
            chooser.zero_grad()
            loss.backward()
            chooser.step()
            losses.append(loss.item())
    return losses


def fresh(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What `make` builds, whatever random numbers were drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def init(net: nn.Module, source: torch.Generator) -> None:
    """Redraw the matrices that are not zero, at the spread they have."""
    for parameter in net.parameters():
        if parameter.ndim > 1 and parameter.detach().abs().max() > 0:
            spread = parameter.detach().std()
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=source) * spread)


@torch.no_grad()
def validate(net: nn.Module, times: int = 8) -> float:
    """The loss on the held-out digits at so many times, the same noise for every network."""
    data, source, total = catalog.build("data", "digits:split=test"), torch.Generator().manual_seed(99), 0.0
    images, labels = data.images(), data.labels
    for k in range(times):
        t = torch.full((len(images),), (k + 0.5) / times)
        n, w = torch.randn(images.shape, generator=source), t[:, None, None, None]
        said = net((1 - w) * images + w * n, t, {"label": labels})
        total += (said - (n - images)).square().mean().item() / times
    return total


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def flops(net: nn.Module) -> int:
    """Of one evaluation of one sample."""
    with Flops() as counted, torch.no_grad():
        net(torch.zeros(2, 1, 8, 8), torch.ones(2), {"label": torch.zeros(2, dtype=torch.long)})
    return counted.total // 2


def trial(name: str, spec: str, steps: int, seeds: int = 3, batch: int = 32) -> Evidence:
    """Train the backbone and the MLP from several seeds: for as many steps, and for as many FLOPs."""
    def mine() -> nn.Module:
        return catalog.build("backbones", spec)

    size = weights(mine())
    width = min(range(16, 1024, 4), key=lambda w: abs(weights(Flat(w)) - size))
    ratio = flops(mine()) / flops(Flat(width))
    runs: list[tuple[str, str, Any, int]] = [
        ("method", name, mine, steps), ("natural", "MLP, as many steps", lambda: Flat(width), steps),
        ("equal-cost", "MLP, as many FLOPs", lambda: Flat(width), min(10 * steps, round(steps * ratio)))]  # fmt: skip
    rows = []
    for kind, label, make, count in runs:
        losses = []
        for seed in range(seeds):
            net = fresh(make, seed)
            train(net, count, batch, seed)
            losses.append(validate(net.eval(), 4))
        rows.append(Row(f"{label}, {weights(net)} weights", kind, METRIC, losses, f"{count} steps of {batch}"))
    method, natural, equal = rows
    holds = [max(method.values) < min(r.values) for r in (natural, equal)]
    claim = (f"Trained briefly on the 8x8 digits, class-conditional flow matching, {name} reaches a lower held-out loss "
             "than an MLP of as many weights with as many steps, and than one with as many FLOPs (at most 10 times the "
             "steps).")  # fmt: skip
    return Evidence(claim, rows, verdict(all(holds), holds[0]), f"One evaluation costs {ratio:.1f} times the MLP's FLOPs.")
