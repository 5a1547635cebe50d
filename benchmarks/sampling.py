"""What the sampling loop costs: against a bare loop written by hand, and against diffusers driving the same network.

python benchmarks/sampling.py [--batch 64] [--steps 50] [--repeats 15] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from interleaved import digits_model, measure, report, written

from ornstein.core import catalog
from ornstein.core.loop import sample


@torch.no_grad()
def bare(network: torch.nn.Module, noise: torch.Tensor, cond: dict, steps: int, first: float) -> torch.Tensor:
    """DDIM on the linear flow, nothing but the arithmetic: x_s = (1 - s) x0 + s noise."""
    times = torch.linspace(first, 0.0, steps + 1)
    x = noise
    for t, s in zip(times[:-1], times[1:]):
        v = network(x, t.expand(len(x)), cond)
        v = getattr(v, "value", v)
        x = (1 - s) * (x - t * v) + s * (x + (1 - t) * v)
    return x


def against_a_bare_loop(batch: int, steps: int, repeats: int) -> dict:
    """The digits DiT. Bound: 3% more than the bare loop. Both come to the same pictures."""
    model, solver = digits_model(), catalog.build("solvers", "ddim")
    cond = {"label": torch.arange(batch) % 10}
    noise = torch.randn(batch, *model.shape, generator=torch.Generator().manual_seed(0))

    def ours() -> torch.Tensor:
        return sample(model.denoiser, noise, solver, steps, cond=cond)

    def by_hand() -> torch.Tensor:
        return bare(model.backbone, noise, cond, steps, model.denoiser.process.t_max)

    difference = float((ours() - by_hand()).abs().max())
    assert difference < 1e-3, difference
    seconds = measure({"by hand": by_hand, "ornstein": ours}, repeats)
    title = f"sampling loop, {model.name}, batch {batch}, {steps} steps"
    return report(title, seconds, "by hand", {"ornstein": 1.03}, difference=difference)


def against_diffusers(batch: int, steps: int, repeats: int) -> dict:
    """One diffusers transformer, random weights, driven by its DDIM scheduler and by our loop through the bridge."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    from ornstein.bridges import diffusers as bridge

    torch.manual_seed(0)
    shape = {"num_attention_heads": 4, "attention_head_dim": 24, "num_layers": 6, "sample_size": 16, "patch_size": 2}
    network = DiTTransformer2DModel(in_channels=4, out_channels=4, num_embeds_ada_norm=1000, **shape).eval()
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="linspace", set_alpha_to_one=False)
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.arange(batch) % 10
    denoiser, solver = bridge.denoiser(network, scheduler), catalog.build("solvers", "ddim")

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        scheduler.set_timesteps(steps + 1)
        x = noise
        for t in scheduler.timesteps[:-1]:
            said = network(x, timestep=t.expand(batch), class_labels=label).sample
            x = scheduler.step(said, t, x).prev_sample
        return x

    def ours() -> torch.Tensor:
        return sample(denoiser, noise, solver, steps, cond={"class_labels": label})

    seconds = measure({"diffusers": theirs, "ornstein": ours}, repeats)
    title = f"one DiTTransformer2DModel, batch {batch}, {steps} steps"
    return report(title, seconds, "diffusers", {"ornstein": 1.0})


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    for name, default in (("batch", 64), ("steps", 50), ("repeats", 15), ("threads", 1)):
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--json", type=Path)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    results = [against_a_bare_loop(a.batch, a.steps, a.repeats)]
    try:
        import diffusers  # noqa: F401
    except ImportError:
        print("diffusers is not installed: the second comparison is left out")
    else:
        results.append(against_diffusers(min(a.batch, 8), a.steps, a.repeats))
    written(a.json, results)


if __name__ == "__main__":
    main()
