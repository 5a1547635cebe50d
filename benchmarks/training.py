"""What the training costs: a step of ornstein.train against the same network in a bare PyTorch loop.

python benchmarks/training.py [--batch 128] [--steps 10] [--repeats 9] [--threads 1] [--json FILE]
Both do what the recipe asks for: random samples, times and noise, labels dropped, clipping, AdamW, averaged weights.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from interleaved import measure, report, written

from ornstein.recipes.train_digits import train_digits
from ornstein.train import Engine, Settings


class Bare:
    """The loop that one would write down: linear flow, velocity, logit-normal times, a tenth of the labels dropped."""

    def __init__(self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, c: Settings) -> None:
        self.network, self.images, self.labels, self.c = network, images, labels, c
        self.weights = [p for p in network.parameters() if p.requires_grad]
        big, small = ([p for p in self.weights if (p.ndim > 1) is b] for b in (True, False))
        groups = [{"params": big, "weight_decay": c.decay}, {"params": small, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, c.lr, betas=(0.9, 0.99), fused=True)
        self.average = [p.detach().clone() for p in self.weights]

    def step(self) -> torch.Tensor:
        c = self.c
        rows = torch.randint(len(self.images), (c.batch,))
        x0, label = self.images[rows], self.labels[rows].clone()
        label[torch.rand(c.batch) < 0.1] = 10
        noise = torch.randn_like(x0)
        t = torch.sigmoid(1.2 * torch.randn(c.batch))
        at = t[:, None, None, None]
        said = self.network((1 - at) * x0 + at * noise, t, {"label": label})
        loss = (getattr(said, "value", said) - (noise - x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, c.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - c.ema)
        return loss.detach()


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("batch", 128), ("steps", 10), ("repeats", 9), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    settings = Settings(steps=1_000_000, batch=a.batch, dtype="float32", device="cpu")
    training = train_digits(settings=settings)
    network = copy.deepcopy(training.model.backbone).train().requires_grad_(True)
    batch = training.data(torch.arange(training.size))
    bare, engine = Bare(network, batch["x0"], batch["cond"]["label"], settings), Engine(training)

    def run(step):
        return lambda: [step() for _ in range(a.steps)]

    seconds = measure({"bare PyTorch": run(bare.step), "ornstein.train": run(engine.step)}, a.repeats)
    title = f"{a.steps} training steps, digits DiT, batch {a.batch}"
    written(a.json, [report(title, seconds, "bare PyTorch", {"ornstein.train": 1.03})])


if __name__ == "__main__":
    main()
